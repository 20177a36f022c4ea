"""Several rewards per rollout, each normalised by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field

from triune.algo.advantages.statistics import GroupEstimator, Groups, spread
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards


@ADVANTAGES.register("gdpo")
class NormaliseThenSum(GroupEstimator):
    """Every check's values are z-scored within the group by themselves, then added with their weights; the sums are
    z-scored over the step (GDPO, arXiv 2601.05242; `normalize_then_sum` of TRL). Where rewards are added first (`group`)
    a check with a small spread drowns beside one with a large spread; here a weight is what it says.

    A check that all members answered alike adds exactly 0. Statistics need two judged members.
    """

    no_raw: ClassVar[str] = "a lone rollout has no spread"

    kind: Literal["gdpo"] = "gdpo"
    ddof: Literal[0, 1] = Field(default=1, description="every std divides by n - ddof")
    eps: float = Field(default=1e-4, ge=0, description="added to every std (TRL)")
    batch: bool = Field(default=True, description="z-score the sums over the step")

    @property
    def batch_wide(self) -> bool:
        return self.batch

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        whole = Groups.of(batch, rewards, self.singleton)
        total = torch.zeros_like(whole.reward)
        silent = torch.ones_like(whole.silent)
        for name, part in rewards.parts.items():
            weight = rewards.weights[name]
            one = whole.about(torch.where(weight == 0, float("nan"), part / weight))
            score = one.centred() / (one.std(one.centred(), self.ddof) + self.eps)[one.index]
            total += torch.where(one.silent[one.index] | ~one.judged, 0.0, score * weight)
            silent &= one.silent
        if self.batch:
            counted = total[whole.counted]
            centred = total - counted.mean()
            total = centred / (spread(counted, self.ddof) + self.eps)
        return replace(whole, silent=silent).credit(total)
