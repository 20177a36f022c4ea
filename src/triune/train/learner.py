"""The learner: one step of policy optimisation over freshly judged episodes, whatever the policy's family.

This is one implementation of `Update`, the single thing that `loop.py` calls to learn. What is trained from replay
instead of fresh groups implements the same method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from triune.algo.advantage import Advantage
from triune.algo.objective import VIEWS, Objective
from triune.algo.options import ADVANTAGES, PolicyGradient
from triune.algo.types import Batch, Credit, Evaluated
from triune.algo.weights import by_source, token_weights, value_weights
from triune.core.recipe import Recipe
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, Scored, merge, scalar
from triune.policy.family import Family
from triune.train.batching import Budget, cut, join, laid_out, per_trajectory, rewards, split, weigher
from triune.train.optim import Optimizer


@dataclass(slots=True)
class Report:
    """What an update did: the step's rollouts with their fate, their advantages, and the learner's own metrics."""

    scored: list[Scored]
    advantages: list[float]
    metrics: list[Metric]


class Update(Protocol):
    """`source` yields the step's judged rollouts when called; an update calls it as often as it needs fresh ones."""

    def step(self, source: Callable[[], Sequence[Scored]], recipe: Recipe, progress: Progress) -> Report: ...

    def state(self) -> dict[str, object]: ...

    def restore(self, state: Mapping[str, object]) -> None: ...


class Learner:
    """Policy gradient with global denominators: pack, evaluate the views, credit, then mini-batches with gradient."""

    def __init__(self, family: Family, recipe: Recipe, exact: bool) -> None:
        self.family, self.exact = family, exact
        self.follow(recipe)
        self.optimizer = Optimizer(family.modules(), recipe.train)
        limits = (getattr(recipe.policy, name, 1 << 60) for name in ("token_budget", "vision_budget"))
        self.budget = Budget(*map(int, limits))

    def follow(self, recipe: Recipe) -> None:
        """Takes over the recipe's algorithm, which a stage may have changed."""
        assert isinstance(recipe.algo, PolicyGradient)
        self.algo = recipe.algo
        self.advantage: Advantage = ADVANTAGES[self.algo.advantage["kind"]].model_validate(
            self.algo.advantage
        )
        self.objective = Objective(self.algo.terms)
        self.objective.check(self.family.provides, self.advantage.needs)

    def step(self, source: Callable[[], Sequence[Scored]], recipe: Recipe, progress: Progress) -> Report:
        if recipe.algo is not self.algo:
            self.follow(recipe)
        self.optimizer.freeze(recipe.train.freeze)
        count = recipe.train.minibatches_per_step
        scored, parts, minibatches, over = split(source(), weigher(self.family), count, self.budget)
        micros = [self.family.pack([scored[i].trajectory for i in part]) for part in parts]
        whole = join(micros)
        views = self.views(micros, whole)
        credit = self.advantage(whole, rewards(whole, [one.verdict for one in scored]), views)
        self.drop(scored, credit)
        metrics = [*laid_out(micros), scalar("layout/over_budget", over)]
        if credit.masked is not None:
            metrics += by_source(whole, whole.sampled, {"dropped/decisions": credit.masked.float()})
        for number, mine in enumerate(minibatches):
            weights = self.weights(whole, credit, [i for m in mine for i in parts[m]])
            losses: dict[str, float] = defaultdict(float)
            for m in mine:
                self.assign(micros[m], m, micros, weights, credit)
                found, share = self.backward(micros[m], m, micros, views, first=number == 0)
                metrics += found
                for name, value in share.items():
                    losses[name] += value
            metrics += [scalar(f"loss/{name}", value) for name, value in losses.items()]
            done = self.optimizer.step(recipe.train.optimizer, progress.step, recipe.train.total_steps)
            metrics += done.metrics()
        metrics.append(scalar("grad_skipped", self.optimizer.skipped))
        kept = [
            Scored(o.sample, o.trajectory, o.outcome, o.verdict, bool(a), bool(b), why)
            for o, a, b, why in zip(scored, credit.in_loss, credit.in_baseline, credit.reasons, strict=True)
        ]
        return Report(kept, per_trajectory(whole, credit.advantage), merge(metrics))

    def views(self, micros: Sequence[Batch], whole: Batch) -> dict[str, Evaluated]:
        """The no-gradient views. An exact engine's behaviour log-probs *are* the old ones: no pass is spent on them."""
        needs = self.advantage.needs | self.objective.needs
        known = self.exact and "value" not in needs
        views = {"old": Evaluated(logp=whole.logp_behavior)} if known else {}
        for name in sorted(({"old"} | needs & VIEWS) - set(views)):
            want, view = (needs - VIEWS, "current") if name == "old" else (frozenset[str](), name)
            with torch.no_grad():
                seen = [self.family.evaluate(micro, want=want, view=view) for micro in micros]
            values = torch.cat(found) if (found := [e.value for e in seen if e.value is not None]) else None
            views[name] = Evaluated(torch.cat([e.logp for e in seen]), value=values)
        return views

    def drop(self, scored: Sequence[Scored], credit: Credit) -> None:
        """Takes truncated rollouts out of the loss where the recipe asks for it; they stay in the baseline."""
        for index, one in enumerate(scored):
            if self.algo.drop_truncated and one.trajectory.truncated and bool(credit.in_loss[index]):
                credit.in_loss[index] = False
                credit.reasons[index] = "truncated"

    def weights(self, whole: Batch, credit: Credit, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Weights f32[N] of decisions and f32[V] of value read-outs in one mini-batch; 0 for all others."""
        chosen = torch.zeros(len(whole.trajectories), dtype=torch.bool)
        chosen[list(rows)] = True
        decisions = token_weights(whole, credit, self.algo.aggregate, chosen, self.objective.placed)
        return decisions, value_weights(whole, credit, chosen)

    def assign(
        self,
        micro: Batch,
        number: int,
        micros: Sequence[Batch],
        weights: tuple[Tensor, Tensor],
        credit: Credit,
    ) -> None:
        """Cuts this micro-batch's part out of the step's vectors."""
        start = sum(m.num_decisions for m in micros[:number])
        span = slice(start, start + micro.num_decisions)
        micro.advantage, micro.weight = credit.advantage[span], weights[0][span]
        if credit.returns is not None:
            first = sum(len(m.value_turn) for m in micros[:number])
            span = slice(first, first + len(micro.value_turn))
            micro.returns, micro.value_weight = credit.returns[span], weights[1][span]

    def backward(
        self, micro: Batch, number: int, micros: Sequence[Batch], views: Mapping[str, Evaluated], first: bool
    ) -> tuple[list[Metric], dict[str, float]]:
        """Gradient of one micro-batch, its metrics and its part of every term's loss; while the weights have not
        moved, also engine against learner."""
        start = sum(m.num_decisions for m in micros[:number])
        values = sum(len(m.value_turn) for m in micros[:number])
        mine = {
            name: cut(view, start, micro.num_decisions, values, len(micro.value_turn))
            for name, view in views.items()
        }
        current = self.family.evaluate(micro, want=self.objective.extras)
        loss = self.objective(micro, current, mine)
        loss.total.backward()
        metrics = loss.metrics
        gap = (current.logp.detach() - micro.logp_behavior).abs()
        for index, source in enumerate(micro.sources):
            live = micro.sampled & (micro.source == index)
            if first and bool(live.any()):
                metrics.append(
                    Metric.of("sampling/sampling_logp_difference", gap[live].tolist(), source=source)
                )
            if current.entropy is not None and bool(live.any()):
                metrics.append(Metric.of("entropy", current.entropy.detach()[live].tolist(), source=source))
        return metrics, loss.parts

    def state(self) -> dict[str, object]:
        return self.optimizer.state()

    def restore(self, state: Mapping[str, object]) -> None:
        self.optimizer.restore(state)
