"""The learner: one step of policy optimisation over freshly judged episodes, whatever the policy's family.

This is one implementation of `Update`, the single thing that `loop.py` calls to learn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from triune.algo.objective import Objective
from triune.algo.options import CollectOptions, Options, PolicyGradient
from triune.algo.share import Share, Span
from triune.algo.step import Step
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import by_source, watched
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, Scored, merge, scalar
from triune.policy.family import Family
from triune.rollout.generator import Demand, Episode
from triune.train.batching import Budget, cut, join, laid_out, per_trajectory, rewards, spans, split, weigher
from triune.train.optim import Optimizer
from triune.train.views import Views, staged


@dataclass(slots=True)
class Report:
    """What an update did: the step's rollouts with their fate, their advantages, and the learner's own metrics."""

    scored: list[Scored]
    advantages: list[float]
    metrics: list[Metric]


class Update(Protocol):
    """`source` yields the step's judged rollouts when called, each time those of fresh prompts; an update calls it as
    often as it needs. `demand` and `place` say what else is to be generated and judged for these samples."""

    def demand(self, demand: Demand, samples: Sequence[Sample]) -> Demand: ...

    def place(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]: ...

    def step(self, source: Callable[[], Sequence[Scored]], recipe: Recipe, progress: Progress) -> Report: ...

    def state(self) -> dict[str, object]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Learner:
    """Policy optimisation with global denominators: collect, pack, evaluate the views, shape rewards, give and adjust
    credit, then mini-batches with gradient."""

    def __init__(self, family: Family, recipe: Recipe, exact: bool) -> None:
        self.family, self.views = family, Views(family, recipe.seed, exact)
        self.parts: dict[str, Options] = {}
        for each in (*staged(recipe), recipe):  # what a later stage cannot have is an error now
            self.follow(each)
        self.optimizer = Optimizer(family.modules(), recipe.train)
        limits = (getattr(recipe.policy, name, 1 << 60) for name in ("token_budget", "vision_budget"))
        self.budget = Budget(*map(int, limits))

    def follow(self, recipe: Recipe) -> None:
        """Takes over the recipe's algorithm, which a stage may have changed. Parts keep what they remember."""
        assert isinstance(recipe.algo, PolicyGradient)
        self.algo = algo = recipe.algo
        remembered = {name: part.state() for name, part in self.parts.items()}
        self.collect: dict[str, CollectOptions] = algo.parts("collect")
        self.shape, self.adjust = algo.parts("shape"), algo.parts("adjust")
        self.advantage = algo.estimator()
        self.objective = Objective(algo)
        kinds: dict[str, Mapping[str, Any]] = {"collect": self.collect, "shape": self.shape}
        kinds |= {"adjust": self.adjust, "terms": self.objective.terms}
        self.parts = {f"{kind}.{name}": part for kind, parts in kinds.items() for name, part in parts.items()}
        self.parts["advantage"] = self.advantage
        for name, state in remembered.items():
            if name in self.parts:
                self.parts[name].restore(state)
        for part in self.parts.values():
            part.agree(self.parts)
        needs = frozenset().union(*(part.needs for part in self.parts.values()))
        self.views.need(algo.parts("views"), needs)

    def demand(self, demand: Demand, samples: Sequence[Sample]) -> Demand:
        for part in self.collect.values():
            demand = part.demand(demand, samples)
        return demand

    def place(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        return [row for part in self.collect.values() for row in part.place(samples, demand, self.family)]

    def step(self, source: Callable[[], Sequence[Scored]], recipe: Recipe, progress: Progress) -> Report:
        if recipe.algo is not self.algo:
            self.follow(recipe)
        self.optimizer.freeze(recipe.train.freeze, [p.alone(progress) for p in self.parts.values()])
        metrics: list[Metric] = []
        fresh = source()
        for collector in self.collect.values():
            fresh, said = collector.select(fresh, source, progress)
            metrics += said
        count = recipe.train.minibatches_per_step
        scored, parts, minibatches, over = split(
            fresh, weigher(self.family), count, self.budget, self.objective.couples
        )
        micros = [self.family.pack([scored[i].trajectory for i in part]) for part in parts]
        metrics += [*laid_out(micros), scalar("layout/over_budget", over)]
        step = self.credited(micros, scored, progress, metrics)
        assert step.credit is not None
        places = spans(micros)
        for number, mine in enumerate(minibatches):
            chosen = torch.zeros(len(step.scored), dtype=torch.bool)
            chosen[[i for m in mine for i in parts[m]]] = True
            shares = self.objective.shares(step.batch, step.credit, step.rewards, chosen)
            losses: dict[str, float] = defaultdict(float)
            for m in mine:
                found, part_losses = self.backward(step, shares, micros[m], places[m], first=number == 0)
                metrics += found
                for name, value in part_losses.items():
                    losses[name] += value
            metrics += [scalar(f"loss/{name}", value) for name, value in losses.items()]
            done = self.optimizer.step(recipe.train.optimizer, progress.step, recipe.train.total_steps)
            metrics += done.metrics()
        metrics += [scalar("grad_skipped", self.optimizer.skipped), *self.views.end(micros, progress)]
        merged = merge(metrics)
        for part in self.parts.values():
            part.observe(merged)
        credit = step.credit
        kept = [
            Scored(o.sample, o.trajectory, o.outcome, o.verdict, bool(a), bool(b), why)
            for o, a, b, why in zip(scored, credit.in_loss, credit.in_baseline, credit.reasons, strict=True)
        ]
        return Report(kept, per_trajectory(step.batch, credit.advantage), merged)

    def credited(
        self, micros: Sequence[Batch], scored: Sequence[Scored], progress: Progress, metrics: list[Metric]
    ) -> Step:
        """The whole step with its views, its shaped rewards and its adjusted credit."""
        whole = join(micros)
        said = rewards(whole, [one.verdict for one in scored])
        step = Step(whole, scored, said, self.views.step(micros, whole, progress), progress)
        for shape in self.shape.values():
            step.rewards, found = shape(step)
            metrics += found
        step.credit = credit = self.advantage(whole, step.rewards, step.views)
        for adjust in self.adjust.values():
            metrics += adjust(step)
        metrics += credit.metrics
        if credit.masked is not None:
            metrics += by_source(whole, whole.sampled, {"dropped/decisions": credit.masked.float()})
        return step

    def backward(
        self, step: Step, shares: Mapping[str, Share], micro: Batch, span: Span, first: bool
    ) -> tuple[list[Metric], dict[str, float]]:
        """Gradient of one micro-batch, its metrics and its part of every term's loss; while the weights have not
        moved, also engine against learner."""
        assert step.credit is not None
        micro.advantage = step.credit.advantage[span.decisions]
        micro.reward = step.rewards.total[span.rows].float()
        if step.credit.returns is not None:
            micro.returns = step.credit.returns[span.values]
        views: dict[str, Evaluated] = {name: cut(view, span) for name, view in step.views.items()}
        current = self.family.evaluate(micro, want=self.views.extras)
        mine = {name: share.cut(span) for name, share in shares.items()}
        loss = self.objective(micro, current, views | self.views.now(micro), mine, step.progress)
        loss.total.backward()
        return loss.metrics + watched(micro, current, first), loss.parts

    def state(self) -> dict[str, object]:
        parts = {name: kept for name, part in self.parts.items() if (kept := part.state())}
        return {**self.optimizer.state(), "parts": parts, "views": self.views.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.optimizer.restore(state)
        self.views.restore(state.get("views", {}))
        for name, kept in state.get("parts", {}).items():
            if name in self.parts:
                self.parts[name].restore(kept)
