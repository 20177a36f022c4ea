"""Rewards to go over the decisions of whole episodes, even where an episode is in several rows."""

from __future__ import annotations

import torch
from torch import Tensor

from triune.algo.types import Batch


def episodes(batch: Batch) -> tuple[Tensor, int]:
    """Index of each trajectory's episode i64[B], and their number. Fragments share one; a branch is its own."""
    names = [t.id if t.parent is not None else t.episode or t.id for t in batch.trajectories]
    keys = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([keys[name] for name in names], dtype=torch.long), len(keys)


def places(batch: Batch) -> tuple[Tensor, Tensor, int]:
    """For every decision the index of its episode i64[N] and its place among the episode's sampled decisions i64[N],
    and the number of episodes. What was placed takes the place of the choice before it, -1 if there is none."""
    episode, count = episodes(batch)
    offset = torch.tensor([t.step_offset for t in batch.trajectories], dtype=torch.long)
    owner = episode[batch.trajectory]
    # Episode by episode, fragment by fragment; a stable sort keeps the decisions of a row in order.
    order = torch.argsort(offset[batch.trajectory], stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    chosen = batch.sampled[order].long()
    rank = chosen.cumsum(0)
    sizes = torch.zeros(count, dtype=torch.long).index_add(0, owner, batch.sampled.long())
    rank = rank - (sizes.cumsum(0) - sizes)[owner[order]] - 1
    place = torch.empty_like(rank)
    place[order] = rank
    return owner, place, count


def rewards_to_go(batch: Batch, placed: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1} over sampled decisions, f64[N]. `placed` [N] are the rewards of single decisions; a reward
    at a decision that was placed counts for the choice before it, and no time passes there."""
    owner, place, count = places(batch)
    length = int(place.max()) + 1 if len(place) else 0
    if length < 1:
        return torch.zeros(len(place), dtype=torch.float64)
    live = place >= 0
    table = torch.zeros(count, length, dtype=torch.float64)
    table.index_put_((owner[live], place[live]), placed.double()[live], accumulate=True)
    if gamma == 1:
        table = table.flip(1).cumsum(1).flip(1)
    else:
        for t in reversed(range(length - 1)):
            table[:, t] += gamma * table[:, t + 1]
    return torch.where(live, table[owner, place.clamp(min=0)], 0.0)
