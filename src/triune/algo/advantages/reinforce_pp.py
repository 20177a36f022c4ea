"""REINFORCE++: whitening over the tokens of the whole step in the place of a critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantages.returns import rewards_to_go
from triune.algo.advantages.statistics import Estimator, Groups, Singleton, whiten
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards


def _live(groups: Groups) -> Tensor:
    """The decisions that are whitened over: sampled, in judged rollouts."""
    return groups.judged[groups.batch.trajectory] & groups.batch.sampled


@ADVANTAGES.register("reinforce_pp")
class ReinforcePlusPlus(Estimator):
    """Rewards to go G_t = r_t + gamma G_{t+1} over tokens, whitened over all sampled tokens of the step:
    (G - mean) / sqrt(var + eps), n-1 in the variance (REINFORCE++, arXiv 2501.03262, as verl computes it).

    Rewards are those in time: a KL penalty in the reward enters token by token.
    """

    kind: Literal["reinforce_pp"] = "reinforce_pp"
    gamma: float = Field(default=1.0, ge=0, le=1, description="discount per sampled token")
    eps: float = Field(default=1e-8, ge=0, description="added to the variance")

    @property
    def batch_wide(self) -> bool:
        return True

    @property
    def keeps_equal(self) -> str:
        return "" if self.gamma == 1 else "earlier tokens are further from their reward"

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = Groups.of(batch, rewards)
        returns = rewards_to_go(batch, rewards.placed.nan_to_num(0.0), self.gamma)
        return groups.credit_decisions(whiten(returns, _live(groups), self.eps))


@ADVANTAGES.register("reinforce_pp_baseline")
class ReinforcePlusPlusBaseline(Estimator):
    """r_i - mean_g for every token of a rollout, then whitened over all sampled tokens of the step (the form of
    arXiv 2501.03262 for several rollouts per prompt, as verl computes it).

    The published whitening subtracts the mean over tokens, so a group of equal rewards gets a small advantage all the
    same; `equal_groups: zero` keeps it at exactly 0 and out of the whitening. It is marked degenerate either way.
    """

    kind: Literal["reinforce_pp_baseline"] = "reinforce_pp_baseline"
    eps: float = Field(default=1e-8, ge=0, description="added to the variance")
    equal_groups: Literal["whiten", "zero"] = Field(
        default="whiten", description="whether groups of equal rewards take part in the whitening"
    )
    singleton: Singleton = Field(
        default="zero",
        description="a group with one judged rollout: centred to 0, its raw reward, or an error if sampled alone",
    )

    @property
    def grouped(self) -> bool:
        return self.singleton != "raw"

    @property
    def batch_wide(self) -> bool:
        return True

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = Groups.of(batch, rewards, self.singleton)
        centred = torch.where(groups.silent[groups.index], 0.0, groups.centred())
        live = _live(groups)
        if self.equal_groups == "zero":
            live &= ~groups.silent[groups.index[batch.trajectory]]
        credit = groups.credit_decisions(whiten(centred[batch.trajectory], live, self.eps))
        credit.degenerate = groups.silent
        return credit
