"""What is trained on gets better, what is held out gets worse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Curve, Readings, Shift
from triune.monitor.store import Point

HELD_OUT = ("eval-before", "eval", "eval-after")
"""Phases that answer held-out samples with their own pictures, in the order of a step."""


@ALARMS.register("reward_up_heldout_down")
class RewardUpHeldoutDown(Rule):
    """Held-out accuracy fell since an earlier evaluation, and the training reward rose between the same steps; per source and,
    as the source '', over all.

    The fall must be larger than the noise of both evaluations taken as independent, which for the same samples is more than
    theirs. It is over when the fall is less than half of what raised it. The bounds are ours.
    """

    window: int = Field(20, ge=3, description="steps in a median of the reward")
    rise: float = Field(0.02, gt=0, description="of the training reward, at least")
    fall: float = Field(0.03, gt=0, description="of held-out accuracy, at least")
    z: float = Field(3.0, ge=0, description="standard errors that either change must have")
    over: float = Field(0.5, gt=0, le=1, description="times these bounds that must be undercut again")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        sources = [source for (source,) in readings.curves("reward")]
        for source in [*sources, ""] if len(sources) > 1 else sources:
            if alarm := self._worst(readings, source):
                yield alarm

    def _worst(self, readings: Readings, source: str) -> Alarm | None:
        keys = (source,) if source else ()
        evaluations = held_out(readings, *keys)
        reward = readings.curve("reward", *keys)
        if len(evaluations) < 2:
            return None
        held = self.bound(readings, source, "", 1.0, self.over)
        *earlier, last = evaluations
        best = max(earlier, key=lambda point: point.mean)
        fall = best.mean - last.mean
        noise = math.hypot(*(point.std / math.sqrt(point.count) for point in (best, last)))
        if fall < held * self.fall or fall < held * self.z * noise:
            return None
        shift = _around(reward, best.step, last.step, self.window)
        if shift is None or shift.change < held * self.rise or shift.z < held * self.z:
            return None
        return Alarm(
            rule=self.name,
            source=source,
            component="",
            step=readings.step,
            since=best.step,
            message=f"since step {best.step} held-out accuracy fell from {best.mean:.3f} to {last.mean:.3f}, while the training "
            f"reward rose from {shift.before.median:.3f} to {shift.after.median:.3f}: what is paid is not what is wanted, "
            "or the training samples are learnt by heart",
            value=fall,
            bound=self.fall,
            metric="accuracy",
            phase="eval",
        )


def held_out(readings: Readings, *keys: str) -> Sequence[Point]:
    """Held-out accuracy of a source (or of all: no key) at every evaluation in memory, one point a step."""
    points = {
        point.step: point
        for phase in HELD_OUT
        for point in readings.curve("accuracy", *keys, phase=phase).tail
    }
    return [points[step] for step in sorted(points)]


def _around(reward: Curve, first: int, last: int, window: int) -> Shift | None:
    """The reward's points nearest to two steps, `window` of each, that do not overlap: those before a step, or the first ones
    of the run."""
    steps = [point.step for point in reward.tail]
    begin = max(window, sum(step <= first for step in steps))
    end = sum(step <= last for step in steps)
    if end - begin < window:
        return None
    before, after = reward.last(window, len(steps) - begin), reward.last(window, len(steps) - end)
    return Shift(before, after) if before and after else None
