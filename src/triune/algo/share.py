"""What one term counts of one mini-batch, its global denominators included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """Where a micro-batch lies in the flat vectors of the step: its decisions, value read-outs and rows."""

    decisions: slice
    values: slice
    rows: slice


def _none() -> Tensor:
    return torch.zeros(0)


@dataclass(slots=True)
class Share:
    """live bool[N] are the decisions that the term trains, weight f32[N] holds 1 / its global denominator for them.

    value_weight f32[V] does so for value read-outs, row_weight f32[B] for whole rollouts, and pair_weight f32[P] for
    `pairs` i64[P, 2] (the row that is preferred, the row that is not). row_value f32[B] is what only the whole mini-batch
    knows of a rollout. Empty where the term has none.
    """

    live: Tensor
    weight: Tensor
    value_weight: Tensor = field(default_factory=_none)
    row_weight: Tensor = field(default_factory=_none)
    row_value: Tensor = field(default_factory=_none)
    pairs: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.long))
    pair_weight: Tensor = field(default_factory=_none)

    @property
    def counts(self) -> bool:
        """Whether anything at all is counted."""
        return any(bool(w.any()) for w in (self.weight, self.value_weight, self.row_weight, self.pair_weight))

    def cut(self, span: Span) -> Share:
        """The part of a micro-batch; pairs name its own rows. Raises ValueError for a pair that was torn apart."""
        first, last = span.rows.start, span.rows.stop
        inside = (self.pairs >= first) & (self.pairs < last)
        if bool((inside.any(1) & ~inside.all(1)).any()):
            raise ValueError("a pair lies in two micro-batches: its term must declare `couples`")
        mine = inside.all(1)
        return Share(
            live=self.live[span.decisions],
            weight=self.weight[span.decisions],
            value_weight=self.value_weight[span.values] if len(self.value_weight) else self.value_weight,
            row_weight=self.row_weight[span.rows] if len(self.row_weight) else self.row_weight,
            row_value=self.row_value[span.rows] if len(self.row_value) else self.row_value,
            pairs=self.pairs[mine] - first,
            pair_weight=self.pair_weight[mine] if len(self.pair_weight) else self.pair_weight,
        )
