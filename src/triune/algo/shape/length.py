"""Rewards that depend on how long a rollout is."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from triune.algo.advantages.returns import episodes
from triune.algo.advantages.statistics import Groups
from triune.algo.options import SHAPES, ShapeOptions
from triune.algo.shape.rewards import added, at_the_end, per_rollout
from triune.algo.step import Step
from triune.algo.types import Batch, Rewards, segment_sum
from triune.core.errors import RecipeError
from triune.monitor.metric import Metric


def sampled_tokens(batch: Batch) -> Tensor:
    """Sampled decisions of the episode that each trajectory belongs to: f64[B]."""
    episode, count = episodes(batch)
    return segment_sum(batch.sampled.double(), episode[batch.trajectory], count)[episode]


def overlong_penalty(length: Tensor, max_length: float, buffer: float, factor: float) -> Tensor:
    """0 up to max_length - buffer, then falling in a straight line to -factor at max_length, and never below."""
    over = (length - (max_length - buffer)).clamp(min=0) / buffer
    return -factor * over.clamp(max=1)


@SHAPES.register("soft_overlong")
class SoftOverlong(ShapeOptions):
    """r <- r + min(-(n - (max_length - buffer)) / buffer factor, 0), at least -factor, n sampled tokens of the episode
    (DAPO, arXiv 2503.14476, section 3.4). The released code has no lower bound, so that a longer limit elsewhere makes
    the penalty grow without end."""

    kind: Literal["soft_overlong"] = "soft_overlong"
    max_length: int = Field(ge=1, description="tokens at which the penalty is full; DAPO 20480")
    buffer: int = Field(ge=1, description="tokens before it over which the penalty grows; DAPO 4096")
    factor: float = Field(default=1.0, ge=0, description="the full penalty")

    @model_validator(mode="after")
    def _buffer_fits(self) -> SoftOverlong:
        if self.buffer > self.max_length:
            raise ValueError(f"buffer: {self.buffer} tokens do not fit in max_length, {self.max_length}")
        return self

    def __call__(self, step: Step) -> tuple[Rewards, list[Metric]]:
        length = sampled_tokens(step.batch)
        penalty = overlong_penalty(length, self.max_length, self.buffer, self.factor)
        found = added(step.rewards, self.kind, penalty, at_the_end(step.batch, penalty))
        return found, per_rollout(step, "reward/overlong", penalty)


@SHAPES.register("length_penalty")
class LengthPenalty(ShapeOptions):
    """r <- r - mean_g (output n/max n + input m/max m + turns k/max k), n sampled tokens, m tokens that the policy read,
    k turns, each over the largest of the group (prime-rl). The mean reward of the group makes brevity matter only where
    the prompt is solved; a negative mean counts as 0, or it would pay for length."""

    kind: Literal["length_penalty"] = "length_penalty"
    output: float = Field(default=0.25, ge=0, description="weight of the sampled tokens")
    input: float = Field(default=0.1, ge=0, description="weight of the tokens read: prompt and observations")
    turns: float = Field(default=0.1, ge=0, description="weight of the turns")

    def __call__(self, step: Step) -> tuple[Rewards, list[Metric]]:
        """Raises RecipeError where `input` has a weight and the policy's rollouts hold no tokens."""
        groups = Groups.of(step.batch, step.rewards)
        share = torch.zeros_like(groups.reward)
        for weight, size in (
            (self.output, sampled_tokens(step.batch)),
            (self.input, self._read(step) if self.input else share),
            (self.turns, torch.tensor([float(one.outcome.num_turns) for one in step.scored]).double()),
        ):
            most = groups.extreme("amax", size).clamp(min=1)
            share = share + weight * size / most[groups.index]
        mean = groups.mean(groups.reward).clamp(min=0)
        penalty = torch.where(groups.judged, -mean[groups.index] * share, 0.0)
        found = added(step.rewards, self.kind, penalty, at_the_end(step.batch, penalty))
        return found, per_rollout(step, "reward/length_penalty", penalty)

    def _read(self, step: Step) -> Tensor:
        """Tokens of each rollout that were not sampled, the most of any row of its episode: f64[B]."""
        read = []
        for one in step.batch.trajectories:
            ids = one.payload.arrays.get("ids")
            if ids is None:
                raise RecipeError(
                    f"rollout {one.id!r} of the family {one.payload.family!r} holds no tokens to count: set input: 0 of "
                    "length_penalty"
                )
            read.append(float(len(ids) - (~one.decisions.forced).sum()))
        episode, count = episodes(step.batch)
        most = torch.zeros(count, dtype=torch.float64)
        return most.scatter_reduce(0, episode, torch.tensor(read, dtype=torch.float64), "amax")[episode]
