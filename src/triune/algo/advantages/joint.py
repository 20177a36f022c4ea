"""A demonstration as one more member of its prompt's group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantages.statistics import Estimator, Groups
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards


@ADVANTAGES.register("joint")
class Joint(Estimator):
    """(r - mean) / (std + eps) over the policy's rollouts and the placed rows of `component` together, n-1 in the std
    (LUFFY, arXiv 2504.14945); `scale: none` leaves the division out.

    Placed decisions get the advantage of their row. A demonstration that succeeds where all rollouts fail so gives
    every one of them a gradient; one without a score is left out and gets 0.
    """

    kind: Literal["joint"] = "joint"
    scale: Literal["std", "none"] = Field(default="std", description="what is divided by")
    eps: float = Field(default=1e-6, ge=0, description="added to the std")
    component: str = Field(
        default="expert", description="placed rows that are members of their sample's group"
    )

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = Groups.of(batch, rewards)
        shown = shown_rows(groups, self.component)
        groups = replace(groups, counted=groups.counted | shown).about(rewards.total)
        advantage = groups.centred()
        if self.scale == "std":
            advantage = advantage / (groups.std(advantage, 1) + self.eps)[groups.index]
        return spread_over(groups, torch.where(groups.silent[groups.index], 0.0, advantage), shown)


def shown_rows(groups: Groups, component: str) -> Tensor:
    """The judged rows bool[B] of a component that were placed as a whole."""
    placed = [
        one.component == component and bool(len(one.decisions) and one.decisions.forced.all())
        for one in groups.batch.trajectories
    ]
    return groups.judged & torch.tensor(placed, dtype=torch.bool)


def spread_over(groups: Groups, advantage: Tensor, shown: Tensor) -> Credit:
    """Credit from an advantage per row, f64[B], for what was sampled and for the placed decisions of the `shown` rows."""
    credit = groups.credit(advantage)
    credit.advantage = torch.where(
        shown[groups.batch.trajectory], advantage[groups.batch.trajectory].float(), credit.advantage
    )
    return credit
