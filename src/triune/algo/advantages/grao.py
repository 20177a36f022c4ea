"""GRAO: own samples, a reference answer, and the gap in likelihood between them, as one advantage per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from triune.algo.advantages.joint import shown_rows, spread_over
from triune.algo.advantages.statistics import Estimator, Groups
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards


@ADVANTAGES.register("grao")
class GRAO(Estimator):
    """(1 + lam) Z_i for the policy's samples, beta Z_y - lam mean_i(Z_i) for the placed answer y (GRAO, 2025, eqs. 2-4).

    Z = (r - mean) / (std + eps) of the group, n in the std. With J(.) the mean log-prob of a row, `reinforce` and
    `imitation` (credit: advantage), both averaged over tokens and then rows, then are

        (1/G) sum Z_i J(o_i) + beta Z_y J(y) + lam (1/G) sum Z_i (J(o_i) - J(y)).

    While `over` is `samples`, mean_i(Z_i) = 0: the last term's pull on y vanishes, and what is left is (1 + lam) policy
    gradient + beta Z_y imitation. With `all`, y is in the mean and the std, and it does not.
    """

    kind: Literal["grao"] = "grao"
    beta: float = Field(default=0.5, description="weight of the reference answer")
    lam: float = Field(default=0.6, description="weight of the gap between samples and reference")
    over: Literal["samples", "all"] = Field(
        default="samples", description="whose rewards are in mean and std; the paper does not say"
    )
    eps: float = Field(default=0.0, ge=0, description="added to the std")
    component: str = Field(default="expert", description="component of the reference answers")

    @property
    def grouped(self) -> bool:
        return self.over == "samples"

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = Groups.of(batch, rewards)
        own, shown = groups.counted, shown_rows(groups, self.component)
        if self.over == "all":
            groups = replace(groups, counted=own | shown).about(rewards.total)
        centred = groups.centred()
        deviation = groups.std(centred, 0) + self.eps
        score = centred / torch.where(groups.silent, 1.0, deviation)[groups.index]
        score = torch.where(groups.silent[groups.index], 0.0, score)
        mean = replace(groups, counted=own).about(rewards.total).mean(score)[groups.index]
        advantage = torch.where(shown, self.beta * score - self.lam * mean, (1 + self.lam) * score)
        return spread_over(groups, advantage, shown)
