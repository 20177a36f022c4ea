"""One component is paid for something that is not wanted."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Readings, Shift


@ALARMS.register("component_hacked")
class ComponentHacked(Rule):
    """A component's value rises while the accuracy of the same rollouts falls.

    The last steps are compared with the first and with some between: a hack that begins late is not hidden by what was learnt
    before. Both changes must be larger than the steps' own noise (z) and than what anybody would care about. The sign of
    overoptimisation is Gao et al.'s (arXiv 2210.10760): the proxy up, the gold score down. The bounds are ours.
    """

    window: int = Field(20, ge=5, description="steps with this source in a median")
    rise: float = Field(0.1, gt=0, description="of the component's value, at least")
    fall: float = Field(0.05, gt=0, description="of accuracy, at least")
    z: float = Field(3.0, ge=0, description="standard errors that either change must have")
    over: float = Field(0.5, gt=0, le=1, description="times these bounds that must be undercut again")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        for (source, component), curve in readings.curves("component", by=("source", "component")).items():
            accuracy = readings.curve("accuracy", source)
            held = self.bound(readings, source, component, 1.0, self.over)
            for shift in curve.shifts(self.window):
                if shift.change < held * self.rise or shift.z < held * self.z:
                    continue
                then, now = (accuracy.between(w.first, w.last) for w in (shift.before, shift.after))
                if then is None or now is None:
                    continue
                fall = Shift(then, now)
                if -fall.change < held * self.fall or -fall.z < held * self.z:
                    continue
                yield Alarm(
                    rule=self.name,
                    source=source,
                    component=component,
                    step=readings.step,
                    since=shift.before.last,
                    message=f"its value rose from {shift.before.median:.3f} to {shift.after.median:.3f} since step "
                    f"{shift.before.last}, while accuracy fell from {then.median:.3f} to {now.median:.3f}. Read rollouts with a "
                    "high value that are wrong; lower its weight, or gate it",
                    value=shift.change,
                    bound=self.rise,
                    metric="component",
                )
                break
