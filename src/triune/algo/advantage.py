"""Advantages: from rewards of a whole step to a credit per decision.

Each estimator sees every trajectory of the step before any micro-batching. Statistics are taken in float64, and a
group whose rewards are equal gets exactly zero (float32 noise of one ulp divided by a tiny std once gave .056 to all).
One file per estimator; this one holds the protocol, what all of them share, and the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.options import ADVANTAGES, Options
from triune.algo.types import Batch, Credit, Evaluated, Rewards, segment_sum

EQUAL = 1e-9
"""Rewards of a group that differ by no more than this share of the largest are equal: rounding is not a signal."""


class Advantage(Protocol):
    """`needs` names the views that must be evaluated without gradient first (a critic's values, for example)."""

    @property
    def needs(self) -> frozenset[str]: ...

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit: ...


def membership(batch: Batch, rewards: Rewards) -> tuple[Tensor, Tensor, list[str]]:
    """in_loss bool[B], in_baseline bool[B], and why one of them fails ('' where none does).

    A rollout without a score leaves both. Rows that the policy did not sample (demonstrations) are trained, by the
    terms of their component, but no baseline of the policy's own rewards may hold them. An episode that was cut into
    several rows counts once.
    """
    in_loss, in_baseline, reasons = [], [], []
    first: dict[str, int] = {}
    for trajectory in batch.trajectories:
        episode, offset = trajectory.episode or trajectory.id, trajectory.step_offset
        first[episode] = min(first.get(episode, offset), offset)
    for index, trajectory in enumerate(batch.trajectories):
        forced = trajectory.decisions.forced
        reason = ""
        if len(forced) and bool(forced.all()):
            reason = "placed"
        elif trajectory.ending in ("env_error", "aborted", "inconsistent"):
            reason = trajectory.ending
        elif torch.isnan(rewards.total[index]):
            reason = "abstained"
        elif trajectory.step_offset > first[trajectory.episode or trajectory.id]:
            reason = "fragment"
        in_loss.append(reason in ("", "placed", "fragment"))
        in_baseline.append(reason == "")
        reasons.append(reason)
    return torch.tensor(in_loss, dtype=torch.bool), torch.tensor(in_baseline, dtype=torch.bool), reasons


def group_index(batch: Batch) -> tuple[Tensor, int]:
    """Index of each trajectory's group i64[B], and the number of groups."""
    keys = {key: i for i, key in enumerate(dict.fromkeys(t.group for t in batch.trajectories))}
    return torch.tensor([keys[t.group] for t in batch.trajectories], dtype=torch.long), len(keys)


@ADVANTAGES.register("group")
class GroupRelative(Options):
    """GRPO: (r - mean_g) / (std_g + eps) over the rollouts of one group, n-1 in the std (DeepSeekMath, section 4.1.2).

    `scale="none"` is Dr.GRPO. A group with fewer than two judged members, or none of whose rewards differ, gives no
    gradient: its advantages are exactly 0.
    """

    kind: Literal["group"] = "group"
    scale: Literal["std", "none"] = "std"
    eps: float = Field(default=1e-6, gt=0, description="added to the std (verl 1e-6, TRL 1e-4)")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

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
