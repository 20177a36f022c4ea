"""Maximum-likelihood RL."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from triune.algo.advantages.statistics import GroupEstimator, Groups
from triune.algo.options import ADVANTAGES


@ADVANTAGES.register("maxrl")
class MaximumLikelihood(GroupEstimator):
    """(r_i - mean_g) / mean_g, and 0 where the mean is not positive (MaxRL, arXiv 2602.02710; prime-rl).

    For rewards of 0 and 1, which it is meant for, a prompt solved with probability p weighs 1/p.
    """

    no_raw: ClassVar[str] = "a lone rollout is its own mean"

    kind: Literal["maxrl"] = "maxrl"

    def estimate(self, groups: Groups) -> Tensor:
        mean = groups.mean(groups.reward)[groups.index]
        return torch.where(mean > 0, groups.centred() / torch.where(mean > 0, mean, 1.0), 0.0)
