"""Advantages: from rewards of a whole step to a credit per decision.

Each estimator sees every trajectory of the step before any micro-batching. Statistics are taken in float64, and a
group whose rewards are equal gets exactly zero (float32 noise of one ulp divided by a tiny std once gave .056 to all).
One file per family in `advantages/`; this one holds the protocol and what all of them share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.trajectory import BASELINE

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
        if trajectory.component == BASELINE:
            reason = BASELINE
        elif len(forced) and bool(forced.all()):
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
