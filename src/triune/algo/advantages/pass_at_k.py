"""Credit for the best of a group only."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantages.statistics import GroupEstimator, Groups
from triune.algo.options import ADVANTAGES
from triune.algo.types import segment_sum


@ADVANTAGES.register("pass_at_k")
class PassAtK(GroupEstimator):
    """(r_max - r_2nd) / (std_g + eps) for the best rollout of a group, 0 for the others (arXiv 2503.19595, as verl
    computes it): what the best adds to the group's pass@k. Two that share the best add nothing."""

    no_raw: ClassVar[str] = "a lone rollout has no second best"

    kind: Literal["pass_at_k"] = "pass_at_k"
    scale: Literal["std", "none"] = Field(default="std", description="what the margin is divided by")
    ddof: Literal[0, 1] = Field(default=1, description="the std divides by n - ddof")
    eps: float = Field(default=1e-6, ge=0, description="added to the std")

    def estimate(self, groups: Groups) -> Tensor:
        reward, index = groups.reward, groups.index
        best = groups.extreme("amax", reward)
        top = groups.counted & (reward == best[index])
        leaders = segment_sum(top.double(), index, len(best))
        below = torch.where(top, float("-inf"), reward)
        second = torch.where(leaders > 1, best, groups.extreme("amax", below))
        margin = torch.where(groups.silent, 0.0, best - second)
        if self.scale == "std":
            margin = margin / (groups.std(groups.centred(), self.ddof) + self.eps)
        return torch.where(groups.judged & (reward == best[index]), margin[index], 0.0)
