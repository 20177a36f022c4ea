"""How a shape changes rewards: the total, its place in time and its parts together, so that they stay one reward."""

from __future__ import annotations

import torch
from torch import Tensor

from triune.algo.step import Step
from triune.algo.types import Batch, Rewards
from triune.monitor.metric import Metric


def last_sampled(batch: Batch) -> Tensor:
    """The last sampled decision of each trajectory, i64[B]; -1 where there is none."""
    here = torch.arange(batch.num_decisions)
    found = torch.full((len(batch.trajectories),), -1)
    return found.scatter_reduce(0, batch.trajectory[batch.sampled], here[batch.sampled], "amax")


def at_the_end(batch: Batch, values: Tensor) -> Tensor:
    """Values per episode f64[B] (the same for all of its rows) at its last sampled decision: f64[N]."""
    ends = torch.tensor([t.terminated or t.truncated for t in batch.trajectories], dtype=torch.bool)
    last = last_sampled(batch)
    rows = torch.nonzero(ends & (last >= 0) & ~values.isnan())[:, 0]
    return torch.zeros(batch.num_decisions, dtype=torch.float64).index_put(
        (last[rows],), values[rows].double()
    )


def added(rewards: Rewards, name: str, total: Tensor, placed: Tensor) -> Rewards:
    """The rewards plus what a shape `name` gives: f64[B] to the totals, and the same in time f64[N]."""
    there = torch.where(rewards.total.isnan(), float("nan"), 1.0)
    return Rewards(
        total=rewards.total + total,
        placed=rewards.placed + placed,
        parts={**rewards.parts, name: total * there},
        weights={**rewards.weights, name: there},
        correct=rewards.correct,
    )


def per_rollout(step: Step, name: str, values: Tensor) -> list[Metric]:
    """One metric per source of what each judged rollout was given, f64[B]."""
    rows: dict[str, list[float]] = {}
    for index, one in enumerate(step.batch.trajectories):
        if not bool(step.rewards.total[index].isnan()):
            rows.setdefault(one.source, []).append(float(values[index]))
    return [Metric.of(name, seen, source=source) for source, seen in rows.items()]
