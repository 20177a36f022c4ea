"""An objective is a sum of terms over one batch; what a term needs and a family provides must match before a run starts.

Weights carry the global denominators (`token_weights`), so each term is a plain sum: splitting a batch into
micro-batches, or over processes, adds the same numbers in another order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.types import Batch, Credit, Evaluated, segment_sum
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
