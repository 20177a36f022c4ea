"""Tensors of one optimisation: flat vectors over decisions, whatever the family and the layout. Never on disk.

Shapes: N decisions, V value read-outs, B trajectories, M energy rows. A flat vector with a `trajectory` index makes
padded and packed layouts the same thing to an objective; a sequence-level quantity is a segment mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from triune.core.trajectory import Trajectory
from triune.monitor.metric import Metric


def _empty() -> Tensor:
    return torch.zeros(0)


@dataclass(slots=True)
class Batch:
    """Trajectories packed by their family, with everything that an objective needs about each decision.

    logp_behavior f32[N]; trajectory, turn, action, time, version, group, source, component i64[N] (indices into the
    lists below; `action` numbers the trajectory's turns that this decision's chunk belongs to); sampled bool[N].
    value_trajectory, value_turn i64[V]: read-out v precedes turn `value_turn[v]`; a truncated trajectory has one more
    after its last turn, the bootstrap.
    advantage f32[N], returns f32[V] (the value targets) and reward f64[B] (large ones may be close to each other) come from
    credit and judge. The rest is the share of the term that looks (`algo/share.py`): `live` bool[N], and weights that
    already hold 1 / (global count), so that a loss is a plain sum and does not depend on micro-batching.
    """

    payload: Any
    trajectories: Sequence[Trajectory]
    logp_behavior: Tensor
    sampled: Tensor
    trajectory: Tensor
    turn: Tensor
    action: Tensor
    time: Tensor
    version: Tensor
    group: Tensor
    source: Tensor
    component: Tensor
    sources: Sequence[str]
    components: Sequence[str]
    value_trajectory: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    value_turn: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    advantage: Tensor = field(default_factory=_empty)
    returns: Tensor = field(default_factory=_empty)
    reward: Tensor = field(default_factory=_empty)
    live: Tensor = field(default_factory=_empty)
    weight: Tensor = field(default_factory=_empty)
    value_weight: Tensor = field(default_factory=_empty)
    row_weight: Tensor = field(default_factory=_empty)
    row_value: Tensor = field(default_factory=_empty)
    pairs: Tensor = field(default_factory=_empty)
    pair_weight: Tensor = field(default_factory=_empty)

    @property
    def num_decisions(self) -> int:
        return int(self.logp_behavior.shape[0])

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory], payload: Any, **values: Tensor) -> Batch:
        """Flat vectors in the order of the trajectories and, within each, of its decisions."""
        groups = {key: i for i, key in enumerate(dict.fromkeys(t.group for t in trajectories))}
        sources = {key: i for i, key in enumerate(dict.fromkeys(t.source for t in trajectories))}
        components = {key: i for i, key in enumerate(dict.fromkeys(t.component for t in trajectories))}
        sizes = torch.tensor([len(t.decisions) for t in trajectories], dtype=torch.long)

        def column(name: str) -> Tensor:
            return torch.cat([torch.from_numpy(getattr(t.decisions, name).copy()) for t in trajectories])

        def spread(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long).repeat_interleave(sizes)

        logp, turn = column("logp"), column("turn").long()
        return cls(
            payload=payload,
            trajectories=trajectories,
            logp_behavior=logp.nan_to_num(
                0.0
            ),  # forced decisions have none; `sampled` keeps them out of every ratio
            sampled=~column("forced"),
            trajectory=spread(list(range(len(trajectories)))),
            turn=turn,
            action=turn,
            time=column("time").long(),
            version=column("version").long(),
            group=spread([groups[t.group] for t in trajectories]),
            source=spread([sources[t.source] for t in trajectories]),
            component=spread([components[t.component] for t in trajectories]),
            sources=list(sources),
            components=list(components),
            **values,
        )


@dataclass(slots=True)
class Evaluated:
    """One view of a batch (current, reference, masked image, ...): logp f32[N] and what was asked for:
    entropy f32[N], value f32[V], energy f32[M], declared extras."""

    logp: Tensor
    entropy: Tensor | None = None
    value: Tensor | None = None
    energy: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class Rewards:
    """What the judge said of B trajectories: total f64[B] (NaN = abstained), and the same reward placed in time,
    placed f64[N] (a per-step reward at its decision, the rest at the last sampled decision). `parts` holds each check's
    own share of the total f64[B] (NaN where a rollout has none), its value times one of `weights` f64[B]; `correct`
    f64[B] is 1, 0 or NaN."""

    total: Tensor
    placed: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    correct: Tensor = field(default_factory=_empty)


@dataclass(slots=True)
class Credit:
    """Advantage per decision, and two separate facts per trajectory with their reasons.

    advantage f32[N]; in_loss, in_baseline bool[B]; reasons[B] ('' where both hold); returns f32[V] when a value
    function is trained; `degenerate` bool[groups] marks groups without variance. `masked` bool[N] takes single
    decisions of a trained trajectory out of the loss and its denominators (those that older weights drew, for example);
    `scale` f32[N] multiplies each decision's loss, detached, and no denominator (importance weights, gates); `point` f32[B]
    is the reference point of each rollout (KTO). `metrics` are what the estimator measured.
    """

    advantage: Tensor
    in_loss: Tensor
    in_baseline: Tensor
    reasons: list[str]
    degenerate: Tensor
    returns: Tensor | None = None
    masked: Tensor | None = None
    scale: Tensor | None = None
    point: Tensor | None = None
    metrics: list[Metric] = field(default_factory=list)


def segment_sum(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Sum of `values` [N] per segment: [count]."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, index, values)


def segment_mean(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Mean of `values` [N] per segment; 0 where a segment is empty."""
    sizes = segment_sum(torch.ones_like(values), index, count)
    return segment_sum(values, index, count) / sizes.clamp(min=1)
