"""Weights that carry the global denominators: with them every loss is a plain sum, however a step is cut into pieces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from triune.algo.types import Batch, Credit, segment_sum
from triune.monitor.metric import Metric


def trained(batch: Batch, credit: Credit, rows: Tensor | None = None, placed: Collection[str] = ()) -> Tensor:
    """Which decisions are in the loss, bool[N]; see `token_weights`."""
    teaches = torch.tensor([name in placed for name in batch.components])
    live = credit.in_loss[batch.trajectory] & (batch.sampled ^ teaches[batch.component])
    if credit.masked is not None:
        live = live & ~credit.masked
    return live if rows is None else live & rows[batch.trajectory]


def token_weights(
    batch: Batch,
    credit: Credit,
    mode: Literal["token-mean", "seq-mean-token-mean"],
    rows: Tensor | None = None,
    placed: Collection[str] = (),
) -> Tensor:
    """Weight of every decision, f32[N]: 0 outside the loss, else 1 / its component's global denominator.

    `rows` bool[B] selects the mini-batch that the denominators count over. Components (RL, imitation, ...) never
    enter each other's count; those in `placed` train the decisions that were placed, the others those sampled.
    A sequence without a trained decision enters no denominator.
    """
    ones = trained(batch, credit, rows, placed).float()
    counts = segment_sum(ones, batch.component, len(batch.components)).clamp(min=1)
    if mode == "token-mean":
        return ones / counts[batch.component]
    lengths = segment_sum(ones, batch.trajectory, len(batch.trajectories))
    component = torch.zeros(len(batch.trajectories), dtype=torch.long)
    component[batch.trajectory] = batch.component
    sequences = segment_sum((lengths > 0).float(), component, len(batch.components)).clamp(min=1)
    return ones / (lengths.clamp(min=1)[batch.trajectory] * sequences[batch.component])


def value_weights(batch: Batch, credit: Credit, rows: Tensor | None = None) -> Tensor:
    """Weight of every value read-out, f32[V]: 1 / their number in its component, over the mini-batch `rows`.

    0 where no trained decision follows in its turn (the bootstrap of a truncated episode, a turn that was placed): such
    a value has no return of its own to be regressed on.
    """
    turns = 1 + int(torch.cat([batch.turn, batch.value_turn, batch.turn.new_zeros(1)]).max())
    places = batch.trajectory * turns + batch.turn
    followed = places[trained(batch, credit, rows)]
    live = torch.isin(batch.value_trajectory * turns + batch.value_turn, followed)
    names = {name: i for i, name in enumerate(batch.components)}
    component = torch.tensor([names[t.component] for t in batch.trajectories], dtype=torch.long)
    component = component[batch.value_trajectory]
    counts = segment_sum(live.float(), component, len(batch.components)).clamp(min=1)
    return live.float() / counts[component]


def by_source(batch: Batch, live: Tensor, values: Mapping[str, Tensor]) -> list[Metric]:
    """Each per-decision value over the live decisions of every source; nothing where there are none."""
    out: list[Metric] = []
    for index, source in enumerate(batch.sources):
        mine = live & (batch.source == index)
        if bool(mine.any()):
            for name, value in values.items():
                out.append(Metric.of(name, value.detach()[mine].tolist(), source=source))
    return out
