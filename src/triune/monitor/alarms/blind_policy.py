"""The policy does not look: its held-out score is the same with blanked pictures."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Readings

PHASE = "eval-blind"


@ALARMS.register("blind_policy")
class BlindPolicy(Rule):
    """The drop of held-out accuracy when pictures are blanked, paired by sample, with its 95 % interval; per source and, as
    the source '', over all.

    It is raised when the interval holds 0 *and* ends below a share of the accuracy that could be lost: a small sample, whose
    interval holds 0 whatever the policy sees, says nothing. A source that is right as often without pictures may be one
    that needs none (benchmarks have many: Chen et al., arXiv 2403.20330): then it does not measure sight, which is as good
    to know. The bounds are ours.
    """

    samples: int = Field(60, ge=2, description="held-out samples of both evaluations, at least")
    share: float = Field(
        0.5, gt=0, le=1, description="of the accuracy with pictures, which the interval must end below"
    )
    patience: int = Field(
        20, ge=0, description="steps without a blind evaluation after which it says that it cannot know"
    )

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        drops = readings.curves("probe/drop", phase=PHASE)
        if not drops:
            if readings.step >= self.patience:
                yield Note(self.name, "whether the policy looks at its pictures cannot be known: there was no evaluation so far "
                           "with blanked ones. Set train.eval_probes: [blind], and train.eval_every")  # fmt: skip
            return
        sources = [source for (source,) in drops]
        lows, highs, seen = (
            readings.curves(f"probe/{name}", phase=PHASE) for name in ("drop_low", "drop_high", "seen")
        )
        pooled = readings.curve("probe/drop", phase=PHASE), readings.curve("probe/seen", phase=PHASE)
        for source in [*sources, ""] if len(sources) > 1 else sources:
            drop, accuracy = (drops[source,], seen[source,]) if source else pooled
            last, with_pictures = drop.last(1), accuracy.last(1)
            low, high = (curves[source,].last(1) if (source,) in curves else None for curves in (lows, highs))
            if last is None or with_pictures is None or low is None or high is None:
                continue
            bound, without = self.share * with_pictures.mean, with_pictures.mean - last.mean
            if last.count < self.samples or low.mean > 0 or high.mean >= bound or low.last != last.last:
                continue
            yield Alarm(
                rule=self.name,
                source=source,
                component="",
                step=readings.step,
                since=last.first,
                message=f"held-out accuracy is {with_pictures.mean:.3f} with pictures and {without:.3f} with blanked ones: the "
                f"drop is {last.mean:+.3f} [{low.mean:+.3f}, {high.mean:+.3f}] over {last.count} samples. The policy does not "
                "look, or the samples can be answered without",
                value=last.mean,
                bound=bound,
                metric="probe/drop",
                phase=PHASE,
            )
