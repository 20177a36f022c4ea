"""What a hint was worth: credit for rollouts that continue a demonstration, and for the part that was placed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantages.statistics import Estimator, Groups, equal
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards, segment_sum


@ADVANTAGES.register("prefix_rft")
class PrefixRFT(Estimator):
    """Rollouts of one prompt, n of which continue a placed prefix (Prefix-RFT, arXiv 2507.01679; the Dr.GRPO variant).

    - Without prefix: r - mean of those without.
    - What follows a prefix is a group of its own: its raw reward if it is alone (`continuation: raw`, v1) or 0 (`zero`,
      v2), else r - mean of those with the prefix.
    - The prefix: (r - mean of those without) / n, for the `top_entropy` share of the step's prefix tokens that the policy
      was least sure of, and 0 for the others, which stay in the denominators. The bar is the (1 - share) quantile of their
      entropies before the step, linearly interpolated.

    Where nothing without prefix was judged there is nothing to compare with, and all is 0. Rollouts with a prefix are in
    no baseline (`prefixed`). A share below 1 costs the pass of `old` even where the engine is exact.
    """

    kind: Literal["prefix_rft"] = "prefix_rft"
    continuation: Literal["raw", "zero"] = Field(
        default="raw", description="advantage of what follows a prefix that only one rollout has"
    )
    top_entropy: float = Field(
        default=0.2, gt=0, le=1, description="share of the prefix tokens that keep their advantage"
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old.entropy"} if self.top_entropy < 1 else ())

    @property
    def batch_wide(self) -> bool:
        return self.top_entropy < 1

    @property
    def keeps_equal(self) -> str:
        return "what follows a prefix keeps its raw reward" if self.continuation == "raw" else ""

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        placed = prefixes(batch)
        hinted = segment_sum(placed.long(), batch.trajectory, len(batch.trajectories)) > 0
        everyone = Groups.of(batch, rewards)
        own = replace(everyone, counted=everyone.counted & ~hinted).about(rewards.total)
        with_prefix = replace(everyone, counted=everyone.counted & hinted).about(rewards.total)
        comparable = (own.members > 0)[own.index] & own.judged
        mean = own.mean(own.reward)[own.index]
        same = equal(torch.minimum(own.reward, mean), torch.maximum(own.reward, mean))
        bought = torch.where(comparable & ~same, own.reward - mean, 0.0)
        number = with_prefix.members[own.index]
        alone = with_prefix.reward if self.continuation == "raw" else torch.zeros_like(bought)
        after = torch.where(number > 1, with_prefix.centred(), alone)
        after = torch.where(with_prefix.silent[own.index] & (number > 1), 0.0, after)
        after = torch.where(comparable, after, 0.0)
        credit = own.credit_decisions(torch.where(hinted, after, bought)[batch.trajectory])
        worth = (bought / number.clamp(min=1))[batch.trajectory]
        kept = self._kept(placed & hinted[batch.trajectory] & credit.in_loss[batch.trajectory], views)
        credit.advantage = torch.where(kept, worth.float(), credit.advantage)
        credit.reasons = [
            why or ("prefixed" if mark else "") for why, mark in zip(credit.reasons, hinted, strict=True)
        ]
        moved = (credit.advantage != 0).double()
        credit.degenerate = segment_sum(moved, own.index[batch.trajectory], len(own.members)) == 0
        return credit

    def _kept(self, placed: Tensor, views: Mapping[str, Evaluated]) -> Tensor:
        if self.top_entropy >= 1 or not bool(placed.any()):
            return placed
        entropy = views["old"].entropy
        assert entropy is not None
        bar = float(np.quantile(entropy[placed].double().numpy(), 1 - self.top_entropy))
        return placed & (entropy.double() >= bar)


def prefixes(batch: Batch) -> Tensor:
    """The decisions bool[N] that were placed in front of what a rollout's policy then sampled."""
    found = []
    for one in batch.trajectories:
        forced = torch.from_numpy(one.decisions.forced.copy())
        begun = forced.long().cumprod(0).bool()
        # A row that is placed as a whole is a demonstration; the later rows of an episode begin with no hint.
        found.append(begun & (not bool(forced.all()) and one.step_offset == 0 and one.fork == 0))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)
