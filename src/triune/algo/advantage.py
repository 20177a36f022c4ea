"""Advantages: from rewards of a whole step to a credit per decision.

Each estimator sees every trajectory of the step before any micro-batching. Statistics are taken in float64, and a
group whose rewards are equal gets exactly zero (float32 noise of one ulp divided by a tiny std once gave .056 to all).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.options import ADVANTAGES, Options
from triune.algo.types import Batch, Credit, Evaluated, Rewards, segment_sum


class Advantage(Protocol):
    """`needs` names the views that must be evaluated without gradient first (a critic's values, for example)."""

    needs: frozenset[str]

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit: ...


def membership(batch: Batch, rewards: Rewards) -> tuple[Tensor, list[str]]:
    """Which trajectories may enter a baseline, bool[B], and why the others may not."""
    reasons = []
    for index, trajectory in enumerate(batch.trajectories):
        if torch.isnan(rewards.total[index]):
            reasons.append("abstained")
        elif trajectory.ending in ("env_error", "aborted", "inconsistent"):
            reasons.append(trajectory.ending)
        else:
            reasons.append("")
    return torch.tensor([not reason for reason in reasons], dtype=torch.bool), reasons


def group_index(batch: Batch) -> tuple[Tensor, int]:
    """Index of each trajectory's group i64[B], and the number of groups."""
    keys = {key: i for i, key in enumerate(dict.fromkeys(t.group for t in batch.trajectories))}
    return torch.tensor([keys[t.group] for t in batch.trajectories], dtype=torch.long), len(keys)


@ADVANTAGES.register("group")
class GroupRelative(Options):
    """GRPO: (r - mean_g) / (std_g + eps) over the rollouts of one group, n-1 in the std (DeepSeekMath, eq. 3).

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
        valid, reasons = membership(batch, rewards)
        group, count = group_index(batch)
        reward = torch.where(valid, rewards.total, 0.0).double()
        members = segment_sum(valid.double(), group, count)
        mean = segment_sum(reward, group, count) / members.clamp(min=1)
        centred = torch.where(valid, reward - mean[group], 0.0)
        variance = segment_sum(centred.square(), group, count) / (members - 1).clamp(min=1)
        low = torch.full((count,), float("inf"), dtype=torch.float64).scatter_reduce(
            0, group, torch.where(valid, reward, float("inf")), "amin"
        )
        high = torch.full((count,), float("-inf"), dtype=torch.float64).scatter_reduce(
            0, group, torch.where(valid, reward, float("-inf")), "amax"
        )
        degenerate = (members < 2) | (high - low <= 1e-9 * torch.maximum(high.abs(), low.abs()))
        scale = variance.sqrt() + self.eps if self.scale == "std" else torch.ones_like(variance)
        advantage = torch.where(degenerate, 0.0, 1.0)[group] * centred / scale[group]
        return Credit(
            advantage=advantage.float()[batch.trajectory] * batch.sampled,
            in_loss=valid.clone(),
            in_baseline=valid,
            reasons=reasons,
            degenerate=degenerate,
        )


@ADVANTAGES.register("shuffled_group")
class ShuffledGroupRelative(GroupRelative):
    """The negative control: group-relative advantages dealt to the wrong rollouts of the same group.

    Every statistic of the update is kept (the same advantages, lengths and steps) but the link between a rollout and
    its reward is cut, so a policy that still improves was not improved by reward.
    """

    kind: Literal["shuffled_group"] = "shuffled_group"  # type: ignore[assignment]

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        group, count = group_index(batch)
        # Seeded by what was sampled, so that the control is reproducible without a generator of its own.
        seed = sum(trajectory.seed for trajectory in batch.trajectories) % (2**31)
        generator = torch.Generator().manual_seed(seed)
        total = rewards.total.clone()
        for index in range(count):
            rows = torch.nonzero(group == index)[:, 0]
            total[rows] = total[rows[torch.randperm(len(rows), generator=generator)]]
        return GroupRelative.__call__(self, batch, Rewards(total, rewards.placed), views)


@ADVANTAGES.register("gae")
class GeneralisedAdvantage(Options):
    """GAE over turns, copied to every decision of a turn (Schulman et al. 2016, eq. 16; the step form of VL-DAC).

    A turn is where the policy waits for the world: an environment step with its whole action chunk, or a reply.
    A truncated episode bootstraps from the value read out after its last turn; a terminated one from 0.
    Returns (value targets) are the raw advantages plus the values; advantages are whitened over the step afterwards.
    """

    kind: Literal["gae"] = "gae"
    gamma: float = Field(default=0.99, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    whiten: bool = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"value"})

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        valid, reasons = membership(batch, rewards)
        values = views["old"].value
        assert values is not None
        turns = int(batch.value_turn.max()) + 2
        rows = len(batch.trajectories)
        reward = torch.zeros(rows, turns).index_put(
            (batch.trajectory, batch.turn), rewards.placed.nan_to_num(0.0), accumulate=True
        )
        value, present = torch.zeros(rows, turns), torch.zeros(rows, turns, dtype=torch.bool)
        value[batch.value_trajectory, batch.value_turn] = values
        present[batch.trajectory, batch.turn] = True
        advantage = torch.zeros(rows, turns)
        running = torch.zeros(rows)
        for turn in reversed(range(turns - 1)):
            # `value` is 0 past the end of a terminated episode and the bootstrap past the end of a truncated one.
            delta = reward[:, turn] + self.gamma * value[:, turn + 1] - value[:, turn]
            running = torch.where(present[:, turn], delta + self.gamma * self.lam * running, 0.0)
            advantage[:, turn] = running
        returns = (advantage + value)[batch.value_trajectory, batch.value_turn]
        spread = advantage[batch.trajectory, batch.turn]
        usable = valid[batch.trajectory] & batch.sampled
        if self.whiten and int(usable.sum()) > 1:
            spread = (spread - spread[usable].mean()) / (spread[usable].std() + 1e-8)
        group, count = group_index(batch)
        return Credit(
            advantage=spread * batch.sampled,
            in_loss=valid.clone(),
            in_baseline=valid,
            reasons=reasons,
            degenerate=torch.zeros(count, dtype=torch.bool),
            returns=returns,
        )
