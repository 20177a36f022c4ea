"""The advantage of group policy gradient."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantages.statistics import GroupEstimator, Groups
from triune.algo.options import ADVANTAGES


@ADVANTAGES.register("gpg")
class GroupPolicyGradient(GroupEstimator):
    """alpha (r_i - mean_g) / f_norm, alpha = judged rollouts of the step / those with a reward other than 0 (GPG,
    arXiv 2504.02546, as verl computes it). The count makes it the one group baseline that a shift of all rewards changes.
    """

    kind: Literal["gpg"] = "gpg"
    f_norm: float = Field(default=1.0, gt=0, description="divisor of every advantage")

    @property
    def batch_wide(self) -> bool:
        return True  # through alpha

    def estimate(self, groups: Groups) -> Tensor:
        rewarded = torch.count_nonzero(groups.reward[groups.counted]).clamp(min=1)
        return groups.centred() * (groups.counted.sum() / rewarded / self.f_norm)
