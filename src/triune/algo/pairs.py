"""Which rows of a group are compared with each other, and which of two is preferred: labels and verdicts alike are rewards.

A pair never holds a row that nobody could judge, that left the loss, or that a gate closed: nothing is preferred to the
unknown. Episodes that are in several rows count as one, under their first row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.types import Batch, Credit, segment_sum
from triune.core.base import Frozen
from triune.core.trajectory import Trajectory
from triune.rollout.engine import derive_seed

EQUAL = 1e-9
"""Rewards that differ by no more than this share of the larger are equal: rounding prefers nothing."""


class PairRule(Frozen):
    """How the rows of a group become pairs (winner, loser)."""

    choose: Literal["best_worst", "all", "random"] = Field(
        "best_worst",
        description="per group: the best against the worst row, every pair, or `draws` of these at random",
    )
    min_gap: float = Field(
        0.0, ge=0, description="rewards that differ by no more than this are a tie (0: equal ones only)"
    )
    ties: Literal["drop", "both"] = Field(
        "drop", description="a tie makes no pair, or one in both directions with half the weight each"
    )
    draws: int = Field(1, ge=1, description="pairs of a group with `choose: random`, without repetition")
    mean: Literal["pairs", "groups"] = Field(
        "pairs", description="the loss is a mean over pairs, or over groups of the mean over a group's pairs"
    )


@dataclass(frozen=True, slots=True)
class Pairs:
    """P comparisons: rows i64[P, 2] (winner, loser), weight f32[P] that sums to 1 over the mini-batch."""

    rows: Tensor
    weight: Tensor


def seats(batch: Batch) -> Tensor:
    """For each row, the row that stands for its episode i64[B]: itself, or the first fragment of an episode in several."""
    first: dict[str, int] = {}
    for index, one in enumerate(batch.trajectories):
        key = one.episode or one.id
        if key not in first or one.step_offset < batch.trajectories[first[key]].step_offset:
            first[key] = index
    return torch.tensor([first[t.episode or t.id] for t in batch.trajectories], dtype=torch.long)


def comparable(batch: Batch, live: Tensor, reward: Tensor, credit: Credit | None = None) -> Tensor:
    """Which rows can be compared, bool[B]: judged, with a decision in the loss that no gate has closed, and whole.

    `live` bool[N] are the decisions that the term trains, `reward` f[B] is NaN where the judge abstained. A branch owns only
    a part of its answer and is left out, and so is every episode a part of which is out of the loss.
    """
    rows = len(batch.trajectories)
    seat = seats(batch)
    open_ = live if credit is None or credit.scale is None else live & (credit.scale != 0)
    trained = segment_sum(open_.double(), seat[batch.trajectory], rows) > 0
    whole = torch.tensor([t.parent is None for t in batch.trajectories], dtype=torch.bool)
    if credit is not None:
        whole = whole & credit.in_loss
    broken = torch.zeros(rows, dtype=torch.bool)
    broken[seat[~whole]] = True
    return trained & ~broken & ~torch.isnan(reward) & (seat == torch.arange(rows))


def make(batch: Batch, reward: Tensor, eligible: Tensor, rule: PairRule) -> Pairs:
    """The pairs of a mini-batch by a rule; `reward` f[B], `eligible` bool[B]. Order and number of other rows do not matter."""
    found: list[tuple[int, int, float]] = []  # winner, loser, share of its group
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(batch.trajectories):
        if bool(eligible[index]):
            groups.setdefault(one.group, []).append(index)
    value = reward.tolist()
    used = 0
    for key, rows in groups.items():
        rows.sort(key=lambda i: (batch.trajectories[i].rank, batch.trajectories[i].id))
        chosen = _chosen(key, rows, value, rule, batch.trajectories)
        used += bool(chosen)
        size = len(chosen) if rule.mean == "groups" else 1
        for a, b in chosen:
            if _tie(value[a], value[b], rule.min_gap):
                found += [(a, b, 0.5 / size), (b, a, 0.5 / size)]
            else:
                found.append((a, b, 1.0 / size))
    total = used if rule.mean == "groups" else round(sum(share for *_, share in found))
    return Pairs(
        rows=torch.tensor([(a, b) for a, b, _ in found], dtype=torch.long).reshape(-1, 2),
        weight=torch.tensor([share / total for *_, share in found], dtype=torch.float32),
    )


def _chosen(
    key: str, rows: Sequence[int], value: Sequence[float], rule: PairRule, all_rows: Sequence[Trajectory]
) -> list[tuple[int, int]]:
    """The pairs of one group, the better row first; ties only where the rule keeps them."""
    if rule.choose == "best_worst":
        if len(rows) < 2:
            return []
        best = max(rows, key=lambda i: value[i])  # of equals, the first in rank
        worst = min((i for i in rows if i != best), key=lambda i: value[i])
        candidates = [(best, worst)]
    else:
        candidates = [(a, b) if value[a] >= value[b] else (b, a) for a, b in itertools.combinations(rows, 2)]
    kept = [
        (a, b) for a, b in candidates if rule.ties == "both" or not _tie(value[a], value[b], rule.min_gap)
    ]
    if rule.choose == "random":
        seed = derive_seed(key, *(f"{all_rows[i].id}/{all_rows[i].seed}" for i in rows))
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed)).tolist()
        kept = [kept[i] for i in order[: rule.draws]]
    return kept


def _tie(a: float, b: float, min_gap: float) -> bool:
    return abs(a - b) <= min_gap + EQUAL * max(abs(a), abs(b))
