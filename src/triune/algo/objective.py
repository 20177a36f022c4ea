"""An objective is a sum of terms over one batch; what a term needs and a family provides must match before a run starts.

Every term owns its share of a mini-batch: which decisions, read-outs or pairs it counts, with weights that carry their
global denominators. So each term is a plain sum: splitting a batch into micro-batches, or over processes, adds the same
numbers in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from triune.algo.finite import finite
from triune.algo.options import PolicyGradient
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.errors import RecipeError
from triune.core.schedule import Progress
from triune.core.trajectory import BASELINE
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
    """See `TermOptions`, which a term derives from."""

    component: str
    couples: bool
    scaled: bool

    @property
    def needs(self) -> frozenset[str]: ...

    def coefficient(self, progress: Progress) -> float: ...

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share: ...

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult: ...


class Objective:
    """The weighted sum of the recipe's terms."""

    def __init__(self, algo: PolicyGradient) -> None:
        self.terms: dict[str, Any] = {}
        for name, term in algo.parts("terms").items():
            mode, constant = term.aggregate or algo.aggregate, term.constant or algo.constant
            self.terms[name] = term.model_copy(update={"aggregate": mode, "constant": constant})
            if mode.endswith("const") and constant is None:
                raise RecipeError(f"algo.terms.{name} divides by a constant, but algo.constant is not given")
        if not self.terms:
            raise RecipeError("algo.terms is empty: nothing would be trained")
        self.needs: frozenset[str] = frozenset().union(*(term.needs for term in self.terms.values()))
        self.floor = algo.logp_floor
        self.couples = any(term.couples for term in self.terms.values())

    @classmethod
    def of(cls, terms: Sequence[Mapping[str, Any]] | Mapping[str, Any], **options: Any) -> Objective:
        """The objective of these terms, for use without a recipe."""
        return cls(PolicyGradient.model_validate({"terms": terms, **options}))

    def shares(
        self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor | None = None
    ) -> dict[str, Share]:
        """What each term counts of the mini-batch `rows` bool[B] (all without). Raises RecipeError for rollouts of a
        component that no term trains."""
        orphans = set(batch.components) - {term.component for term in self.terms.values()} - {BASELINE}
        if orphans:
            raise RecipeError(f"no term of algo.terms trains the component {sorted(orphans)} of the rollouts")
        rows = torch.ones(len(batch.trajectories), dtype=torch.bool) if rows is None else rows
        found = {name: term.share(batch, credit, rewards, rows) for name, term in self.terms.items()}
        if credit.scale is not None:
            for name in (name for name, term in self.terms.items() if term.scaled):
                found[name].weight = found[name].weight * credit.scale
        return found

    def __call__(
        self,
        batch: Batch,
        current: Evaluated,
        views: Mapping[str, Evaluated],
        shares: Mapping[str, Share],
        progress: Progress,
    ) -> Loss:
        # An empty slice keeps the graph when every decision is masked; `sum() * 0` would turn an infinity into NaN.
        loss = Loss(current.logp[:0].sum(), {}, [])
        all_views = {"current": current, **views}
        views, loss.metrics = finite(batch, self.terms, shares, all_views, self.floor)
        current = views["current"]
        for name, term in self.terms.items():
            share = shares[name]
            mine = replace(batch, **{key: getattr(share, key) for key in share.__slots__})
            result = term(mine, current, views)
            if coefficient := term.coefficient(progress):  # a term that is off may be infinite
                loss.total = loss.total + coefficient * result.loss
            loss.parts[name] = float(result.loss.detach())
            loss.metrics += result.metrics
        return loss

    def whole(
        self,
        batch: Batch,
        credit: Credit,
        current: Evaluated,
        views: Mapping[str, Evaluated],
        rewards: Rewards | None = None,
        progress: Progress = Progress(step=1, total_steps=1),
    ) -> Loss:
        """The loss of a batch that is not cut: one mini-batch of one micro-batch."""
        rewards = rewards or Rewards(torch.zeros(len(batch.trajectories)).double(), torch.zeros(0))
        batch = replace(batch, advantage=credit.advantage, reward=rewards.total)
        if credit.returns is not None:
            batch.returns = credit.returns
        return self(batch, current, views, self.shares(batch, credit, rewards), progress)
