"""Negative controls: estimators that keep every statistic of an update but cut the link from choice to reward.

A policy that still improves under its control was improved by something other than reward. Deals are seeded by what
was sampled, so a control is as reproducible as the run it controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from triune.algo.advantage import group_index, membership
from triune.algo.advantages.gae import GeneralisedAdvantage
from triune.algo.advantages.group import GroupRelative
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards


def _generator(batch: Batch) -> torch.Generator:
    return torch.Generator().manual_seed(sum(t.seed for t in batch.trajectories) % 2**62)


@ADVANTAGES.register("shuffled_group")
class ShuffledGroupRelative(GroupRelative):
    """Group-relative advantages dealt to the wrong rollouts of the same group: the same advantages, another owner."""

    kind: Literal["shuffled_group"] = "shuffled_group"  # type: ignore[assignment]

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        # An abstention stays with the rollout that nobody could judge.
        _, counted, _ = membership(batch, rewards)
        group, count = group_index(batch)
        generator, total = _generator(batch), rewards.total.clone()
        for index in range(count):
            rows = torch.nonzero((group == index) & counted)[:, 0]
            total[rows] = total[rows[torch.randperm(len(rows), generator=generator)]]
        return super().__call__(batch, Rewards(total, rewards.placed), views)


@ADVANTAGES.register("shuffled_gae")
class ShuffledAdvantage(GeneralisedAdvantage):
    """GAE whose advantages are dealt to the wrong decisions of the step; the value function learns as ever."""

    kind: Literal["shuffled_gae"] = "shuffled_gae"  # type: ignore[assignment]

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        credit = super().__call__(batch, rewards, views)
        live = torch.nonzero(credit.in_loss[batch.trajectory] & batch.sampled)[:, 0]
        dealt = live[torch.randperm(len(live), generator=_generator(batch))]
        credit.advantage[live] = credit.advantage[dealt]
        return credit
