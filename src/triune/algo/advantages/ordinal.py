"""Advantages from the order of a group's rewards alone: any rising function of the reward gives the same."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantages.statistics import GroupEstimator, Groups
from triune.algo.options import ADVANTAGES


def win_rates(
    reward: Tensor, index: Tensor, counted: Tensor, judged: Tensor, temperature: float | None = None
) -> Tensor:
    """mean_j P(i beats j) over the counted others of i's group, f64[B]; 1/2 without any.

    P is 1, 1/2 or 0 by comparing rewards, or sigmoid((r_i - r_j) / temperature). A row that does not count itself (a
    fragment) is compared as the row of its episode that does: one opponent fewer, at 1/2.
    """
    rate = torch.full_like(reward, 0.5)
    for group in range(int(index.max()) + 1 if len(index) else 0):
        rows = torch.nonzero((index == group) & judged)[:, 0]
        against = torch.nonzero((index == group) & counted)[:, 0]
        if len(against) < 2:
            continue
        gap = reward[rows][:, None] - reward[against]
        chance = torch.sigmoid(gap / temperature) if temperature else (gap.sign() + 1) / 2
        rate[rows] = (chance.sum(1) - 0.5) / (len(against) - 1)  # it does not play against itself
    return rate


@ADVANTAGES.register("win_rate")
class WinRate(GroupEstimator):
    """mean_j P(i beats j) - 1/2 over the other rollouts of the group (SPO, Swamy et al. 2024, arXiv 2401.04056): rewards
    are compared, their distances do not count unless a `temperature` makes P a sigmoid. Win rates always average 1/2."""

    no_raw: ClassVar[str] = "a lone rollout beats nobody"

    kind: Literal["win_rate"] = "win_rate"
    temperature: float | None = Field(
        default=None, gt=0, description="P = sigmoid(difference / temperature); null: 1, 1/2 or 0"
    )

    def estimate(self, groups: Groups) -> Tensor:
        rate = win_rates(groups.reward, groups.index, groups.counted, groups.judged, self.temperature)
        return rate - 0.5


@ADVANTAGES.register("rank")
class RankNormalised(GroupEstimator):
    """(rank_i - mean rank) / (std of ranks + eps) within the group, equal rewards sharing the mean of their ranks: a
    group-relative advantage that no outlier, and no rescaling of a reward model, can dominate."""

    no_raw: ClassVar[str] = "a lone rollout has no rank"

    kind: Literal["rank"] = "rank"
    ddof: Literal[0, 1] = Field(default=1, description="the std divides by n - ddof")
    eps: float = Field(default=1e-6, ge=0, description="added to the std")

    def estimate(self, groups: Groups) -> Tensor:
        # A win rate is the rank moved and scaled: (rank - 1) / (n - 1), ties sharing the mean.
        rate = win_rates(groups.reward, groups.index, groups.counted, groups.judged) - 0.5
        rank = rate * (groups.members - 1).clamp(min=1)[groups.index]
        return rank / (groups.std(rank, self.ddof) + self.eps)[groups.index]
