"""The engine that samples is not the policy that is trained."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Readings


@ALARMS.register("logprob_gap")
class LogprobGap(Rule):
    """Mean distance of the learner's log-probs from the engine's, in nats per sampled token, before the weights move.

    An exact engine differs by float noise (1e-6 for the native one), one with other kernels or precision by more; so there are
    two bounds: one for everybody, and one against what this run began with. Both are ours. At 0.05 nats per token a
    ratio over 100 tokens may be off by e^5; a mean gap of 0.5 already keeps a run from starting (`train.probe`).
    """

    window: int = Field(5, ge=1, description="steps in the median")
    nats: float = Field(0.05, gt=0, description="per token, for any engine")
    times: float = Field(20, gt=1, description="as far apart as when the run began")
    least: float = Field(1e-3, gt=0, description="nats per token that a growth must reach to count")
    over: float = Field(0.5, gt=0, le=1, description="times the bound that the gap must fall to")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        name = "sampling/sampling_logp_difference"
        for (source,), curve in readings.curves(name).items():
            begun, now = curve.first(self.window), curve.last(self.window)
            if begun is None or now is None:
                continue
            bound = min(self.nats, max(self.least, self.times * begun.median))
            if now.median >= self.bound(readings, source, "", bound, bound * self.over):
                yield Alarm(
                    rule=self.name,
                    source=source,
                    component="",
                    step=readings.step,
                    since=now.first,
                    message=f"engine and learner differ by {now.median:.2g} nats per token, at most by {now.max:.2g}; when the "
                    f"run began by {begun.median:.2g}. Ratios are biased: do both hold the same weights, pictures and rule?",
                    value=now.median,
                    bound=bound,
                    metric=name,
                )
