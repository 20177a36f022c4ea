"""The policy stops trying: its entropy is gone."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Readings

ENTROPY = ("entropy", "completions/surprise")
"""Per token: exact where a term evaluates it, else estimated by what was sampled."""


@ALARMS.register("entropy_collapse")
class EntropyCollapse(Rule):
    """Entropy in nats per token, as the median of the last steps, against the first steps of the run.

    Without entropy all rollouts of a group are one, and nothing is left to learn from (DAPO, arXiv 2503.14476, section 3.1;
    Cui et al., arXiv 2505.22617: performance ends where entropy does). The bounds are ours. A source that is solved may be
    certain.
    """

    window: int = Field(10, ge=3, description="steps in the median")
    share: float = Field(0.1, gt=0, lt=1, description="of the entropy that the run began with")
    floor: float = Field(1e-3, ge=0, description="nats per token below which any policy has collapsed")
    over: float = Field(2.0, ge=1, description="times the bound that entropy must come back to")
    solved: float = Field(0.95, gt=0, le=1, description="share correct from which certainty is no fault")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        name = next((one for one in ENTROPY if readings.curves(one)), "")
        for (source,), curve in readings.curves(name).items():
            shift = curve.since_start(self.window)
            if shift is None:
                continue
            correct = readings.curve("correct", source).last(self.window)
            if correct is not None and correct.median >= self.solved:
                continue
            begun, now = shift.before.median, shift.after.median
            bound = max(self.floor, self.share * begun)
            if now < self.bound(readings, source, "", bound, bound * self.over):
                yield Alarm(
                    rule=self.name,
                    source=source,
                    component="",
                    step=readings.step,
                    since=shift.after.first,
                    message=f"entropy is {now:.3g} nats per token, and was {begun:.3g} when the run began: answers to a "
                    "prompt hardly differ. Raise clip_high or the temperature, or add an entropy term",
                    value=now,
                    bound=bound,
                    metric=name,
                )
