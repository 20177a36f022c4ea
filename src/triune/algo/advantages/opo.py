"""The length-weighted baseline of OPO."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from triune.algo.advantages.returns import episodes
from triune.algo.advantages.statistics import GroupEstimator, Groups
from triune.algo.options import ADVANTAGES
from triune.algo.types import segment_sum


@ADVANTAGES.register("opo")
class OptimalBaseline(GroupEstimator):
    """r_i - sum_j n_j r_j / sum_j n_j, n_j sampled decisions of the episode (OPO, arXiv 2505.23585): the baseline of
    least variance when the squared norm of a gradient grows with the length."""

    kind: Literal["opo"] = "opo"

    def estimate(self, groups: Groups) -> Tensor:
        batch, (episode, count) = groups.batch, episodes(groups.batch)
        length = segment_sum(batch.sampled.double(), episode[batch.trajectory], count)[episode]
        total = groups.sum(length)
        weighted = groups.sum(length * groups.reward) / torch.where(total > 0, total, 1.0)
        baseline = torch.where(groups.alone, 0.0, weighted)
        return groups.reward - baseline[groups.index]
