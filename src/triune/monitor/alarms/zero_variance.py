"""Groups whose rewards do not differ: the whole signal is gone."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Curve, Readings


@ALARMS.register("zero_variance")
class ZeroVariance(Rule):
    """Share of the last steps' groups without any spread of rewards, per source and, as the source '', of all together.

    Such groups have an advantage of exactly 0 (DAPO, arXiv 2503.14476, section 3.2). Some are normal at any time; from 0.98 on,
    a step of 32 groups has on average less than one that teaches. The bounds are ours.
    """

    window: int = Field(20, ge=1, description="steps with this source that are looked at")
    groups: int = Field(16, ge=1, description="groups in them, at least")
    share: float = Field(0.98, gt=0, le=1, description="of these groups")
    over: float = Field(0.9, gt=0, le=1, description="share that it must fall below")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        name = "frac_reward_zero_std"
        curves = dict(readings.curves(name))
        if len(curves) > 1:
            curves["",] = readings.curve(name)
        for (source,), curve in curves.items():
            window = curve.last(min(self.window, curve.length))
            if window is None or window.count < self.groups:
                continue
            if window.mean < self.bound(readings, source, "", self.share, self.over):
                continue
            yield Alarm(
                rule=self.name,
                source=source,
                component="",
                step=readings.step,
                since=window.first,
                message=f"{window.mean:.0%} of {window.count} groups have equal rewards{self._why(readings, source)}: "
                "they teach nothing. More rollouts per prompt, other data, or a finer reward",
                value=window.mean,
                bound=self.share,
                metric=name,
            )

    def _why(self, readings: Readings, source: str) -> str:
        curves = readings.curves("correct", by=("source",) if source else ())
        window = (curves.get((source,) if source else ()) or Curve()).last(self.window)
        if window is None or 0 < window.mean < 1:
            return ""
        return ", all of them right" if window.mean == 1 else ", all of them wrong"
