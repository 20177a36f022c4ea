"""Answers grow without getting better."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Readings, Shift


@ALARMS.register("length_explosion")
class LengthExplosion(Rule):
    """Sampled tokens per answer: far more than earlier in the run, without more correct ones; or cut off where few were.

    Longer answers that are more often right are what reasoning looks like (DeepSeek-R1, arXiv 2501.12948, figure 3), and raise
    nothing. Longer ones that are not are the length bias of averaging over a rollout's tokens (Dr. GRPO, arXiv 2503.20783,
    section 3). The bounds are ours.
    """

    window: int = Field(
        10, ge=3, description="steps in a median; the last are compared with the first, and with some between"
    )
    times: float = Field(2.0, gt=1, description="as long as before")
    tokens: float = Field(16, ge=0, description="more than before, at least")
    gain: float = Field(0.05, ge=0, description="share correct that justifies any length")
    clipped: float = Field(0.25, gt=0, le=1, description="share of answers that are cut off")
    rise: float = Field(0.15, ge=0, le=1, description="of that share, at least")
    z: float = Field(4.0, ge=0, description="standard errors that a change must have")
    over: float = Field(0.75, gt=0, le=1, description="times the bounds that must be undercut again")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        for (source,), curve in readings.curves("completions/length").items():
            alarm = next(
                filter(None, (self._longer(readings, source, shift) for shift in curve.shifts(self.window))),
                None,
            )
            if alarm := alarm or self._cut(readings, source):
                yield alarm

    def _longer(self, readings: Readings, source: str, shift: Shift) -> Alarm | None:
        before, now = shift.before.median, shift.after.median
        held = self.bound(readings, source, "", 1.0, self.over)
        if now < held * self.times * before or shift.change < held * self.tokens or shift.z < held * self.z:
            return None
        correct = readings.curve("correct", source)
        then, today = (correct.between(w.first, w.last) for w in (shift.before, shift.after))
        gain = today.mean - then.mean if then and today else 0.0
        if gain >= self.gain:
            return None
        return Alarm(
            rule=self.name,
            source=source,
            component="",
            step=readings.step,
            since=shift.after.first,
            message=f"answers have {now:.0f} tokens, and had {before:.0f} around step {shift.before.last}, while the share "
            f"correct moved by {gain:+.2f}. Look at how the loss is averaged, or give length a price",
            value=now,
            bound=self.times * before,
            metric="completions/length",
        )

    def _cut(self, readings: Readings, source: str) -> Alarm | None:
        name = "completions/clipped_ratio"
        shift = readings.curve(name, source).since_start(self.window)
        held = self.bound(readings, source, "", 1.0, self.over)
        if shift is None or shift.after.mean < held * self.clipped or shift.z < held * self.z:
            return None
        if shift.after.mean - shift.before.mean < held * self.rise:
            return None
        return Alarm(
            rule=self.name,
            source=source,
            component="",
            step=readings.step,
            since=shift.after.first,
            message=f"{shift.after.mean:.0%} of the answers are cut off, {shift.before.mean:.0%} when the run began. Raise "
            "rollout.max_tokens, or give length a price",
            value=shift.after.mean,
            bound=self.clipped,
            metric=name,
        )
