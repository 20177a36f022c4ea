"""A reward component that says the same to everything."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Readings, Window
from triune.monitor.source import NO_SPREAD

COMPONENT = ("source", "component")


@ALARMS.register("constant_verifier")
class ConstantVerifier(Rule):
    """One value for every rollout of several groups and steps.

    Values that differ by no more than 1e-8 are equal, as everywhere in the metrics. 64 rollouts of 8 groups are ours: were
    one answer in ten another one, all 64 would be alike once in 850 times. A component besides the main one may be constant at 0
    or at full marks if it calls every answer correct: a format that is learnt, a penalty that nobody earns.
    """

    window: int = Field(20, ge=1, description="steps with this source that are looked at")
    rollouts: int = Field(64, ge=2, description="judged rollouts in them, at least")
    groups: int = Field(8, ge=1, description="groups in them, at least")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        spreads = readings.curves("component_std", by=COMPONENT)
        correct = readings.curves("component/correct", by=COMPONENT)
        for key, curve in readings.curves("component", by=COMPONENT).items():
            source, component = key
            window = curve.last(self.window)
            if window is None or window.count < self.rollouts or window.max - window.min > NO_SPREAD:
                continue
            groups = spreads[key].between(window.first, window.last) if key in spreads else None
            if groups is None or groups.count < self.groups:
                continue
            judged = correct[key].between(window.first, window.last) if key in correct else None
            main = _is_main(readings, source, window)
            if not main and judged is not None and judged.min == 1 and (window.min == 0 or window.min >= 1):
                continue
            yield Alarm(
                rule=self.name,
                source=source,
                component=component,
                step=readings.step,
                since=window.first,
                message=f"gave {window.min:g} to each of {window.count} rollouts in {groups.count} groups: "
                + _meaning(main, window.min),
                value=window.min,
                bound=window.min,
                metric="component",
            )


def _is_main(readings: Readings, source: str, window: Window) -> bool:
    """Whether accuracy is read from this component: it has the same values."""
    accuracy = readings.curve("accuracy", source).between(window.first, window.last)
    return accuracy is not None and (accuracy.min, accuracy.max) == (window.min, window.max)


def _meaning(main: bool, value: float) -> str:
    if main and value >= 1:
        return "the source is solved, or the check passes everything; nothing is learned from it"
    if main:
        return "no answer is better than another one; look at truth, parameters and what the policy writes"
    return "it tells no answer from another one, and only shifts the reward"
