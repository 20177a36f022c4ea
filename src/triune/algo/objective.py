"""An objective is a sum of terms over one batch; what a term needs and a family provides must match before a run starts.

Weights carry the global denominators (`token_weights`), so each term is a plain sum: splitting a batch into
micro-batches, or over processes, adds the same numbers in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.types import Batch, Credit, Evaluated, segment_sum
from triune.core.errors import RecipeError
from triune.monitor.metric import Metric, scalar


@dataclass(slots=True)
class TermResult:
    """A term's loss (a scalar attached to the graph, before its coefficient) and its metrics, labelled by source."""

    loss: Tensor
    metrics: list[Metric]


class Term(Protocol):
    """`needs` names views (`old`, `reference`, ...) and extras of the current view (`entropy`, `value`)."""

    kind: str
    coef: float

    @property
    def needs(self) -> frozenset[str]: ...

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult: ...


VIEWS = frozenset({"old", "reference"})


class Objective:
    """The weighted sum of the recipe's terms."""

    def __init__(self, terms: Sequence[Mapping[str, object]]) -> None:
        if not terms:
            raise RecipeError("algo.terms is empty: nothing would be trained")
        self.terms: list[Term] = [TERMS[str(term["kind"])].model_validate(term) for term in terms]
        self.needs: frozenset[str] = frozenset().union(*(term.needs for term in self.terms))

    def check(self, provides: frozenset[str], extra: frozenset[str] = frozenset()) -> None:
        """Raises RecipeError when a term (or the advantage, `extra`) needs what the family cannot give."""
        missing = (self.needs | extra) - provides - {"old"}
        if missing:
            raise RecipeError(
                f"the objective needs {sorted(missing)} but the policy provides {sorted(provides)}; "
                "choose other terms or another policy"
            )

    @property
    def extras(self) -> frozenset[str]:
        """What the current view must hold besides log-probs."""
        return self.needs - VIEWS

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> tuple[Tensor, list[Metric]]:
        """The total loss and every term's metrics, with each term's own loss among them."""
        total = current.logp.sum() * 0.0  # keeps the graph when every decision is masked
        metrics: list[Metric] = []
        for term in self.terms:
            result = term(batch, current, views)
            total = total + term.coef * result.loss
            metrics += result.metrics
            metrics.append(scalar(f"loss/{term.kind}", float(result.loss.detach())))
        return total, metrics


def token_weights(
    batch: Batch, credit: Credit, mode: Literal["token-mean", "seq-mean-token-mean"], rows: Tensor | None = None
) -> Tensor:
    """Weight of every decision, f32[N]: 0 outside the loss, else 1 / its component's global denominator.

    `rows` bool[B] selects the mini-batch that the denominators count over. Components (RL, imitation, ...) never
    enter each other's count.
    """
    live = credit.in_loss[batch.trajectory] & batch.sampled
    if rows is not None:
        live = live & rows[batch.trajectory]
    ones = live.float()
    counts = segment_sum(ones, batch.component, len(batch.components)).clamp(min=1)
    if mode == "token-mean":
        return ones / counts[batch.component]
    lengths = segment_sum(ones, batch.trajectory, len(batch.trajectories))
    component = torch.zeros(len(batch.trajectories), dtype=torch.long)
    component[batch.trajectory] = batch.component
    sequences = segment_sum((lengths > 0).float(), component, len(batch.components)).clamp(min=1)
    return ones / (lengths.clamp(min=1)[batch.trajectory] * sequences[batch.component])


def by_source(batch: Batch, live: Tensor, values: Mapping[str, Tensor]) -> list[Metric]:
    """Each per-decision value over the live decisions of every source; nothing where there are none."""
    out: list[Metric] = []
    for index, source in enumerate(batch.sources):
        mine = live & (batch.source == index)
        if bool(mine.any()):
            out += [Metric.of(name, value.detach()[mine].tolist(), source=source) for name, value in values.items()]
    return out
