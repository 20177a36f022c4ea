"""Leave-one-out baselines."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from triune.algo.advantages.statistics import GroupEstimator, Groups
from triune.algo.options import ADVANTAGES


@ADVANTAGES.register("rloo")
class LeaveOneOut(GroupEstimator):
    """r_i - mean of the other rollouts of the group = n/(n-1) (r_i - mean), n judged rollouts (Ahmadian et al. 2024,
    arXiv 2402.14740): unbiased, as no rollout is in its own baseline."""

    kind: Literal["rloo"] = "rloo"

    def estimate(self, groups: Groups) -> Tensor:
        n = groups.members
        return groups.centred() * (n / (n - 1).clamp(min=1))[groups.index]
