"""How a step's rollouts become batches: order, micro-batches, rewards placed in time, and slices of flat vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from triune.algo.types import Batch, Evaluated, Rewards
from triune.core.trajectory import Trajectory
from triune.core.verdict import Verdict
from triune.monitor.metric import Scored


def split(
    scored: Sequence[Scored], cost: Callable[[Trajectory], int], minibatches: int, budget: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Micro-batches (lists of rollout indices) under the token budget, whole groups together where they fit, and
    which micro-batches form each mini-batch. `scored` is sorted by group; `cost` weighs a trajectory, in tokens."""
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(scored):
        groups.setdefault(one.trajectory.group, []).append(index)
    keys = list(groups)
    share = -(-len(keys) // minibatches)
    parts: list[list[int]] = []
    plan: list[list[int]] = []
    for start in range(0, len(keys), share):
        plan.append([])
        spent = 0
        for key in keys[start : start + share]:
            weight = sum(cost(scored[i].trajectory) for i in groups[key])
            if not plan[-1] or spent + weight > budget:
                plan[-1].append(len(parts))
                parts.append([])
                spent = 0
            parts[-1] += groups[key]
            spent += weight
    return parts, plan


def sorted_by_group(scored: Sequence[Scored]) -> list[Scored]:
    """Stable order with each group's rollouts together."""
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.trajectory.group, []).append(one)
    return [one for many in groups.values() for one in many]


def rewards(batch: Batch, verdicts: Sequence[Verdict]) -> Rewards:
    """Totals (NaN where the judge abstained) and their placement: events at their decisions, the rest at the end.

    Events index the episode's decisions: a fragment or a branch takes those that fall on decisions it owns, and only
    the row that the episode ends in takes the rest.
    """
    placed = torch.zeros(batch.num_decisions, dtype=torch.float64)
    total = torch.full((len(verdicts),), float("nan"), dtype=torch.float64)
    start = 0
    for index, (trajectory, verdict) in enumerate(zip(batch.trajectories, verdicts, strict=True)):
        size, before = len(trajectory.decisions), trajectory.step_offset + trajectory.fork
        if verdict.reward is not None:
            total[index] = verdict.reward
            scale = sum(c.weight for c in verdict.components) if verdict.normalized else 1.0
            rest = verdict.reward
            for part in verdict.components:
                for event in part.events if not part.gated else ():
                    value = part.weight * (event.value or 0.0) / scale
                    rest -= value
                    if 0 <= event.decision - before < size:
                        placed[start + event.decision - before] += value
            sampled = torch.nonzero(batch.sampled[start : start + size])[:, 0]
            # An episode may end on forced tokens; its reward sits on the last one it chose.
            if len(sampled) and (trajectory.terminated or trajectory.truncated):
                placed[start + int(sampled[-1])] += rest
        start += size
    return Rewards(total, placed.float())


def join(micros: Sequence[Batch]) -> Batch:
    """One batch of flat vectors over all micro-batches, without payload."""
    offset = 0
    trajectories, value_trajectory = [], []
    for micro in micros:
        trajectories += list(micro.trajectories)
        value_trajectory.append(micro.value_trajectory + offset)
        offset += len(micro.trajectories)
    return Batch.of(
        trajectories,
        None,
        value_trajectory=torch.cat(value_trajectory),
        value_turn=torch.cat([micro.value_turn for micro in micros]),
    )


def per_trajectory(batch: Batch, advantage: Tensor) -> list[float]:
    """The mean advantage of each trajectory's sampled decisions, for people to look at."""
    ones = batch.sampled.float()
    sums = torch.zeros(len(batch.trajectories)).index_add(0, batch.trajectory, advantage * ones)
    counts = torch.zeros(len(batch.trajectories)).index_add(0, batch.trajectory, ones)
    return (sums / counts.clamp(min=1)).tolist()


def cut(view: Evaluated, start: int, size: int, first_value: int, num_values: int) -> Evaluated:
    kept = {f.name: getattr(view, f.name) for f in fields(view)}
    kept["logp"] = view.logp[start : start + size]
    if view.entropy is not None:
        kept["entropy"] = view.entropy[start : start + size]
    if view.value is not None:
        kept["value"] = view.value[first_value : first_value + num_values]
    return Evaluated(**kept)
