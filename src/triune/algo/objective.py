"""An objective is a sum of terms over one batch; what a term needs and a family provides must match before a run starts.

Weights carry the global denominators (`token_weights`), so each term is a plain sum: splitting a batch into
micro-batches, or over processes, adds the same numbers in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.types import Batch, Evaluated
from triune.core.errors import RecipeError
from triune.monitor.metric import Metric


@dataclass(slots=True)
class TermResult:
    """A term's loss (a scalar attached to the graph, before its coefficient) and its metrics, labelled by source."""

    loss: Tensor
    metrics: list[Metric]


@dataclass(slots=True)
class Loss:
    """One micro-batch's share: the weighted total to differentiate, each term's part before its coefficient (parts
    add up over the micro-batches of a mini-batch), and the terms' metrics."""

    total: Tensor
    parts: dict[str, float]
    metrics: list[Metric]


class Term(Protocol):
    """`needs` names views (`old`, `reference`, ...) and extras of the current view (`entropy`, `value`)."""

    kind: str
    coef: float
    component: str
    placed: bool

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
        self.placed = frozenset(term.component for term in self.terms if term.placed)
        mixed = self.placed & {term.component for term in self.terms if not term.placed}
        if mixed:
            raise RecipeError(
                f"terms of component {sorted(mixed)} disagree whether sampled or placed decisions are trained; "
                "give demonstrations a component of their own"
            )

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

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> Loss:
        orphans = set(batch.components) - {term.component for term in self.terms}
        if orphans:
            raise RecipeError(f"no term of algo.terms trains the component {sorted(orphans)} of the rollouts")
        # An empty slice keeps the graph when every decision is masked; `sum() * 0` would turn an infinity into NaN.
        loss = Loss(current.logp[:0].sum(), {}, [])
        for term in self.terms:
            result = term(_only(batch, term.component), current, views)
            loss.total = loss.total + term.coef * result.loss
            name = term.kind if term.component == "policy" else f"{term.component}/{term.kind}"
            loss.parts[name] = loss.parts.get(name, 0.0) + float(result.loss.detach())
            loss.metrics += result.metrics
        return loss


def _only(batch: Batch, component: str) -> Batch:
    """The batch with the weights of every other component at 0."""
    if batch.weight is None or list(batch.components) == [component]:
        return batch
    mine = torch.tensor([name == component for name in batch.components], device=batch.weight.device)
    weight = torch.where(mine[batch.component], batch.weight, 0.0)
    if batch.value_weight is None:
        return replace(batch, weight=weight)
    rows = torch.tensor([t.component == component for t in batch.trajectories], device=batch.weight.device)
    return replace(
        batch, weight=weight, value_weight=torch.where(rows[batch.value_trajectory], batch.value_weight, 0.0)
    )
