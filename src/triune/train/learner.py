"""The learner: one step of policy optimisation over freshly judged episodes, whatever the policy's family.

This is one implementation of `Update` (train/update.py), the single thing that `loop.py` calls to learn.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from triune.algo.objective import Objective
from triune.algo.options import CollectOptions, PolicyGradient
from triune.algo.share import Share, Span
from triune.algo.step import Step
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import left_out, watched
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, Scored, merge, scalar
from triune.policy.family import Family
from triune.rollout.generator import Demand, Episode
from triune.runtime.world import world
from triune.train.batching import Budget, cut, join, laid_out, rewards, spans, split, weigher
from triune.train.gather import Gathering
from triune.train.optim import Optimizer
from triune.train.parallel import packed
from triune.train.update import Report
from triune.train.views import Views, staged


class Learner:
    """Policy optimisation with global denominators: collect, pack, evaluate the views, shape rewards, give and adjust
    credit, then mini-batches with gradient."""

    def __init__(self, family: Family, recipe: Recipe, exact: bool) -> None:
        self.family, self.views = family, Views(family, recipe.seed, exact)
        self.parts: dict[str, Any] = {}
        self.memory: dict[str, dict[str, Mapping[str, Any]]] = {}  # by name and kind, past stages' parts too
        self.placed: set[str] = set()
        for each in (*staged(recipe), recipe):  # what a later stage cannot have is an error now
            self.follow(each)
        self.optimizer = Optimizer(family.modules(), recipe.train)
        limits = (getattr(recipe.policy, name, 1 << 60) for name in ("token_budget", "vision_budget"))
        self.budget = Budget(*map(int, limits))

    def follow(self, recipe: Recipe) -> None:
        """Takes over the recipe's algorithm, which a stage may have changed. Parts of the same kind keep what they remember."""
        assert isinstance(recipe.algo, PolicyGradient)
        self.algo = algo = recipe.algo
        self.memory = self.remembered()
        self.collect: dict[str, CollectOptions] = algo.parts("collect")
        self.shape, self.adjust = algo.parts("shape"), algo.parts("adjust")
        self.advantage = algo.estimator()
        self.objective = Objective(algo)
        kinds: dict[str, Mapping[str, Any]] = {"collect": self.collect, "shape": self.shape}
        kinds |= {"adjust": self.adjust, "terms": self.objective.terms}
        self.parts = {f"{kind}.{name}": part for kind, parts in kinds.items() for name, part in parts.items()}
        self.parts["advantage"] = self.advantage
        self.recall()
        for part in self.parts.values():
            part.agree(self.parts)
        needs = frozenset().union(*(part.needs for part in self.parts.values()))
        early = [
            need for name, part in self.parts.items() if not name.startswith("terms.") for need in part.needs
        ]
        self.views.need(algo.parts("views"), needs, early)

    def admit(self, samples: Sequence[Sample], progress: Progress) -> list[Sample]:
        kept = list(samples)
        for part in self.collect.values():
            kept = part.admit(kept, progress)
        return kept

    def demand(self, demand: Demand, samples: Sequence[Sample]) -> Demand:
        for part in self.collect.values():
            demand = part.demand(demand, samples)
        return demand

    def place(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        rows = [row for part in self.collect.values() for row in part.place(samples, demand, self.family)]
        self.placed.update(episode.trajectory.id for row in rows for episode in row)
        return rows

    def step(self, source: Callable[[], Sequence[Scored]], recipe: Recipe, progress: Progress) -> Report:
        if recipe.algo is not self.algo:
            self.follow(recipe)
        self.optimizer.freeze(recipe.train.freeze, [p.alone(progress) for p in self.parts.values()])
        self.placed.clear()
        gathering = Gathering(source, self.collect, progress, self.placed)
        fresh, others = gathering.trained(), gathering.others()
        metrics = gathering.metrics
        if not fresh:  # nothing to learn from: the weights stay as they are
            return Report.of(None, others, self.observed(metrics))
        count = recipe.train.minibatches_per_step
        scored, parts, minibatches, over = split(
            fresh, weigher(self.family), count, self.budget, self.objective.couples, world().size
        )
        micros = packed(self.family, [[scored[i].trajectory for i in part] for part in parts])
        metrics += [*laid_out(micros), scalar("layout/over_budget", over)]
        step = self.credited(micros, scored, progress, metrics)
        assert step.credit is not None
        places, empty = spans(micros), 0
        for number, mine in enumerate(minibatches):
            chosen = torch.zeros(len(step.scored), dtype=torch.bool)
            chosen[[i for m in mine for i in parts[m]]] = True
            shares = self.objective.shares(step.batch, step.credit, step.rewards, chosen)
            losses: dict[str, float] = defaultdict(float)
            one = functools.partial(self.backward, step, shares, micros, places, number == 0)
            for found, part_losses in world().each(mine, one):
                metrics += found
                for name, value in part_losses.items():
                    losses[name] += value
            metrics += [scalar(f"loss/{name}", value) for name, value in losses.items()]
            if not any(
                share.counts for share in shares.values()
            ):  # momentum and decay alone would move the weights
                empty += 1
                self.optimizer.forget()
                continue
            moved = self.optimizer.step(recipe.train.optimizer, progress.step, recipe.train.total_steps)
            metrics += moved.metrics()
        metrics += [scalar("minibatches_empty", empty), *self.views.end(micros, progress)]
        return Report.of(step, others, self.observed(metrics))

    def observed(self, metrics: Sequence[Metric]) -> list[Metric]:
        """A step's metrics, after every part has seen them."""
        merged = merge([*metrics, scalar("grad_skipped", self.optimizer.skipped)])
        for part in self.parts.values():
            part.observe(merged)
        return merged

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
        metrics += left_out(whole, credit)
        return step

    def backward(
        self, step: Step, shares: Mapping[str, Share], micros: Sequence[Batch], places: Sequence[Span],
        first: bool, number: int,
    ) -> tuple[list[Metric], dict[str, float]]:  # fmt: skip
        """Gradient of one micro-batch, its metrics and its part of every term's loss; while the weights have not
        moved, also engine against learner."""
        assert step.credit is not None
        micro, span = micros[number], places[number]
        micro.advantage = step.credit.advantage[span.decisions]
        micro.reward = step.rewards.total[span.rows]
        if step.credit.returns is not None:
            micro.returns = step.credit.returns[span.values]
        views: dict[str, Evaluated] = {name: cut(view, span) for name, view in step.views.items()}
        current = self.family.evaluate(micro, want=self.views.extras)
        mine = {name: share.cut(span) for name, share in shares.items()}
        loss = self.objective(micro, current, views | self.views.now(micro), mine, step.progress)
        loss.total.backward()
        return loss.metrics + watched(micro, current, first), loss.parts

    def remembered(self) -> dict[str, dict[str, Mapping[str, Any]]]:
        own = {name: {part.kind: kept} for name, part in self.parts.items() if (kept := part.state())}
        return self.memory | {name: self.memory.get(name, {}) | kept for name, kept in own.items()}

    def recall(self) -> None:
        for name, part in self.parts.items():
            if (known := self.memory.get(name, {}).get(part.kind)) is not None:
                part.restore(known)

    def state(self) -> dict[str, object]:
        return {**self.optimizer.state(), "parts": self.remembered(), "views": self.views.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.optimizer.restore(state)
        self.views.restore(state.get("views", {}))
        self.memory = dict(state.get("parts", {}))
        self.recall()
