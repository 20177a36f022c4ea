"""Group-relative advantages: rollouts of one prompt against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantage import EQUAL, group_index, membership
from triune.algo.options import ADVANTAGES, Options
from triune.algo.types import Batch, Credit, Evaluated, Rewards, segment_sum


@ADVANTAGES.register("group")
class GroupRelative(Options):
    """GRPO: (r - mean_g) / (std_g + eps) over the rollouts of one group, n-1 in the std (DeepSeekMath, section 4.1.2).

    `scale="none"` is Dr.GRPO. A group with fewer than two judged members, or none of whose rewards differ, gives no
    gradient: its advantages are exactly 0.
    """

    kind: Literal["group"] = "group"
    scale: Literal["std", "none"] = Field(default="std", description="what centred rewards are divided by")
    eps: float = Field(default=1e-6, gt=0, description="added to the std (verl 1e-6, TRL 1e-4)")

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        in_loss, counted, reasons = membership(batch, rewards)
        group, count = group_index(batch)
        judged = in_loss & ~torch.isnan(rewards.total)
        reward = torch.where(judged, rewards.total, 0.0).double()
        weight = counted.double()
        members = segment_sum(weight, group, count)
        mean = segment_sum(reward * weight, group, count) / members.clamp(min=1)
        centred = torch.where(judged, reward - mean[group], 0.0)
        variance = segment_sum(centred.square() * weight, group, count) / (members - 1).clamp(min=1)
        low = _extreme("amin", reward, counted, group, count)
        high = _extreme("amax", reward, counted, group, count)
        degenerate = (members < 2) | (high - low <= EQUAL * torch.maximum(high.abs(), low.abs()))
        scale = variance.sqrt() + self.eps if self.scale == "std" else torch.ones_like(variance)
        advantage = torch.where(degenerate[group], 0.0, centred / scale[group])
        return Credit(
            advantage=advantage.float()[batch.trajectory] * batch.sampled,
            in_loss=in_loss,
            in_baseline=counted,
            reasons=reasons,
            degenerate=degenerate,
        )


def _extreme(
    reduce: Literal["amin", "amax"], values: Tensor, counted: Tensor, group: Tensor, count: int
) -> Tensor:
    """The least or the greatest counted value of every group; infinite where none counts."""
    empty = float("inf") if reduce == "amin" else float("-inf")
    start = torch.full((count,), empty, dtype=values.dtype)
    return start.scatter_reduce(0, group, torch.where(counted, values, empty), reduce)
