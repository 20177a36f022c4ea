"""Schedules: pure functions of training progress, frozen at evaluation.

A schedule never reads a clock or keeps a counter, so a resumed, refilled or asynchronous run resolves the same
value for the same step (V-Triune defect V13 is the validation curve that drops because the training schedule moved).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from triune.core.base import Frozen


class Progress(Frozen):
    """Where a run stands: `step` counts from 1 to `total_steps`; 0 is before the first step."""

    step: int = Field(ge=0)
    total_steps: int = Field(ge=1)
    phase: Literal["train", "eval"] = "train"

    @property
    def fraction(self) -> float:
        """Share of the run that is done once this step is, in [0, 1]."""
        return min(1.0, self.step / self.total_steps)


class Steps(Frozen):
    """A table `[(until, value), ...]`: the value of the first row whose bound is >= the progress.

    Dynamic IoU of V-Triune (section 3.3) is `[(0.10, .85), (0.25, .95), (1.0, .99)]`, bounds inclusive. With
    `unit: step` bounds are step numbers, and the last row holds to the end: Vision-R1's refinement at step 1500 is
    `[(1499, .5), (1500, .75)]`. The same table then means something else in a shorter run.
    """

    kind: Literal["steps"] = "steps"
    table: tuple[tuple[float, float], ...] = Field(min_length=1)
    unit: Literal["fraction", "step"] = "fraction"

    @model_validator(mode="after")
    def _ordered(self) -> Steps:
        bounds = [bound for bound, _ in self.table]
        if not all(a < b for a, b in pairwise(bounds)) or not bounds[-1] >= 1.0:
            raise ValueError(f"bounds must rise strictly and end at 1.0 or above, got {bounds}")
        return self

    def at(self, progress: Progress) -> float:
        # A bound such as 0.10 must include step 10 of 100 whatever the rounding of 10/100.
        where = progress.step if self.unit == "step" else progress.fraction - 1e-9
        return next((value for bound, value in self.table if where <= bound), self.table[-1][1])


class Linear(Frozen):
    """From `start` to `end` in a straight line over the first `until` of the run, then `end`."""

    kind: Literal["linear"] = "linear"
    start: float
    end: float
    until: float = Field(default=1.0, gt=0, le=1)

    def at(self, progress: Progress) -> float:
        return self.start + (self.end - self.start) * min(1.0, progress.fraction / self.until)


class Cosine(Frozen):
    """Half a cosine from `start` to `end` over the first `until` of the run, then `end`."""

    kind: Literal["cosine"] = "cosine"
    start: float
    end: float
    until: float = Field(default=1.0, gt=0, le=1)

    def at(self, progress: Progress) -> float:
        share = min(1.0, progress.fraction / self.until)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * share))


class WarmupCosine(Frozen):
    """In a straight line from `start` to `peak` over `warmup`, by half a cosine to `valley` over `decay`, then `valley`.

    CHORD's weight of the demonstrations (Trinity-RFT, mix_chord.yaml): warm-up 200, decay 400, peak 0.5, valley 0.02; its
    complement, the weight of RL, is the same with 1 - start, 1 - peak and 1 - valley. With `unit: fraction` the lengths
    are shares of the run.
    """

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    start: float = 0.0
    peak: float
    valley: float
    warmup: float = Field(ge=0)
    decay: float = Field(ge=0)
    unit: Literal["fraction", "step"] = "step"

    @property
    def turns(self) -> tuple[float, float]:
        """Where it turns: the end of the warm-up, and of the decay."""
        return self.warmup, self.warmup + self.decay

    def at(self, progress: Progress) -> float:
        where = float(progress.step) if self.unit == "step" else progress.fraction
        if where < self.warmup:
            return self.start + (self.peak - self.start) * where / self.warmup
        share = min(1.0, (where - self.warmup) / self.decay) if self.decay else 1.0
        return self.valley + (self.peak - self.valley) * 0.5 * (1 + math.cos(math.pi * share))


Schedule = Annotated[Steps | Linear | Cosine | WarmupCosine, Field(discriminator="kind")]


def resolve(schedule: Steps | Linear | Cosine | WarmupCosine, progress: Progress) -> float:
    """The schedule's value at this progress; at evaluation its final value, so that curves stay comparable."""
    total = progress.total_steps
    return schedule.at(
        Progress(step=total, total_steps=total, phase="eval") if progress.phase == "eval" else progress
    )
