"""Win rates in the place of rewards."""

from __future__ import annotations

import re
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantages.ordinal import win_rates
from triune.algo.advantages.statistics import Groups
from triune.algo.options import SHAPES, ShapeOptions
from triune.algo.shape.rewards import at_the_end, per_rollout
from triune.algo.step import Step
from triune.algo.types import Rewards
from triune.core.errors import RecipeError
from triune.monitor.metric import Metric

_AGAINST = re.compile(r"beats/(\d+)")


@SHAPES.register("pairwise")
class PairwiseReward(ShapeOptions):
    """r_i = mean_j P(i beats j) over the other judged rollouts of the group (SPO, Swamy et al. 2024, arXiv 2401.04056): an
    order that goes in a circle, which no scalar reward can hold, still has win rates. They average 1/2 in every group.

    P comes from the `check` whose metrics say so, `beats/K` for the rollout of rank K in the group; without one it is 1,
    1/2 or 0 by comparing rewards, or sigmoid(difference / temperature). A lone rollout has no win rate and no signal: 1/2.
    """

    kind: Literal["pairwise"] = "pairwise"
    check: str = Field(
        default="", description="the check whose metrics `beats/K` are a matrix of win probabilities"
    )
    temperature: float | None = Field(
        default=None,
        gt=0,
        description="without a check: P = sigmoid(difference / temperature); null: 1, 1/2 or 0",
    )

    def __call__(self, step: Step) -> tuple[Rewards, list[Metric]]:
        """Raises RecipeError where the check says nothing of another judged rollout of the group."""
        groups = Groups.of(step.batch, step.rewards)
        if self.check:
            rate = self._from_judge(step, groups)
        else:
            rate = win_rates(groups.reward, groups.index, groups.counted, groups.judged, self.temperature)
        rate = torch.where(step.rewards.total.isnan(), float("nan"), rate)
        ones = torch.where(rate.isnan(), rate, 1.0)
        found = Rewards(
            rate, at_the_end(step.batch, rate), {self.kind: rate}, {self.kind: ones}, step.rewards.correct
        )
        return found, per_rollout(step, "reward/win_rate", rate)

    def _from_judge(self, step: Step, groups: Groups) -> Tensor:
        """Mean win probability against the other members that count, f64[B]."""
        rate = torch.full_like(groups.reward, 0.5)
        rows = step.batch.trajectories
        for row in torch.nonzero(groups.judged)[:, 0].tolist():
            mine = groups.counted & (groups.index == groups.index[row])
            others = {rows[j].rank for j in torch.nonzero(mine)[:, 0].tolist()} - {rows[row].rank}
            parts = [part for part in step.scored[row].verdict.components if part.name == self.check]
            said = {
                int(found[1]): value
                for part in parts
                for key, value in part.metrics.items()
                if (found := _AGAINST.fullmatch(key))
            }
            if others - said.keys():
                raise RecipeError(
                    f"rollout {rows[row].id!r}: the check {self.check!r} reports no beats/{min(others - said.keys())} in its "
                    "metrics; name a check that compares all rollouts of a group, or leave `check` out"
                )
            if others:
                rate[row] = sum(said[rank] for rank in others) / len(others)
        return rate
