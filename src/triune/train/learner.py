"""The learner: one step of policy optimisation over freshly judged episodes, whatever the policy's family.

This is one implementation of `Update`, the single thing that `loop.py` calls to learn. What is trained from replay
instead of fresh groups implements the same method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from triune.algo.advantage import Advantage
from triune.algo.objective import Objective, by_source, token_weights, value_weights
from triune.algo.options import ADVANTAGES, PolicyGradient
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.recipe import Recipe
from triune.core.schedule import Progress
from triune.core.verdict import Verdict
from triune.monitor.metric import Metric, Scored, merge, scalar
from triune.policy.family import Family
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
        self.budget = int(getattr(recipe.policy, "token_budget", 1 << 30))

    def follow(self, recipe: Recipe) -> None:
        """Takes over the recipe's algorithm, which a stage may have changed."""
        assert isinstance(recipe.algo, PolicyGradient)
        self.algo = recipe.algo
        self.advantage: Advantage = ADVANTAGES[self.algo.advantage["kind"]].model_validate(self.algo.advantage)
        self.objective = Objective(self.algo.terms)
        self.objective.check(self.family.provides, self.advantage.needs)

    def step(self, source: Callable[[], Sequence[Scored]], recipe: Recipe, progress: Progress) -> Report:
        if recipe.algo is not self.algo:
            self.follow(recipe)
        self.optimizer.freeze(recipe.train.freeze)
        scored = sorted_by_group(source())
        parts, minibatches = self.split(scored, recipe.train.minibatches_per_step)
        micros = [self.family.pack([scored[i].trajectory for i in part]) for part in parts]
        whole = join(micros)
        views = self.views(micros, whole)
        credit = self.advantage(whole, rewards(whole, [one.verdict for one in scored]), views)
        self.drop(scored, credit)
        metrics: list[Metric] = []
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
            total = recipe.train.total_steps
            norms, rates = self.optimizer.step(recipe.train.optimizer, progress.step, total)
            metrics += [scalar("grad_norm", value, module=name) for name, value in norms.items()]
            metrics += [scalar("learning_rate", value, module=name) for name, value in rates.items()]
        metrics.append(scalar("grad_skipped", self.optimizer.skipped))
        kept = [
            Scored(o.sample, o.trajectory, o.outcome, o.verdict, bool(a), bool(b), why)
            for o, a, b, why in zip(scored, credit.in_loss, credit.in_baseline, credit.reasons, strict=True)
        ]
        return Report(kept, per_trajectory(whole, credit.advantage), merge(metrics))

    def split(self, scored: Sequence[Scored], minibatches: int) -> tuple[list[list[int]], list[list[int]]]:
        """Micro-batches (lists of rollout indices) under the token budget, whole groups together where they fit, and
        which micro-batches form each mini-batch. `scored` is sorted by group."""
        groups: dict[str, list[int]] = {}
        for index, one in enumerate(scored):
            groups.setdefault(one.trajectory.group, []).append(index)
        keys = list(groups)
        share = -(-len(keys) // minibatches)
        parts: list[list[int]] = []
        plan: list[list[int]] = []
        for start in range(0, len(keys), share):
            plan.append([])
            cost = 0
            for key in keys[start : start + share]:
                weight = sum(self.family.cost(scored[i].trajectory) for i in groups[key])
                if not plan[-1] or cost + weight > self.budget:
                    plan[-1].append(len(parts))
                    parts.append([])
                    cost = 0
                parts[-1] += groups[key]
                cost += weight
        return parts, plan

    def views(self, micros: Sequence[Batch], whole: Batch) -> dict[str, Evaluated]:
        """The no-gradient views. An exact engine's behaviour log-probs *are* the old ones: no pass is spent on them."""
        if self.exact and "value" not in self.advantage.needs | self.objective.needs:
            return {"old": Evaluated(logp=whole.logp_behavior)}
        want = self.objective.extras | self.advantage.needs
        with torch.no_grad():
            seen = [self.family.evaluate(micro, want=want) for micro in micros]
        values = [e.value for e in seen if e.value is not None]
        return {"old": Evaluated(torch.cat([e.logp for e in seen]), value=torch.cat(values) if values else None)}

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
        self, micro: Batch, number: int, micros: Sequence[Batch], weights: tuple[Tensor, Tensor], credit: Credit
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
        mine = {name: _cut(view, start, micro.num_decisions, values, len(micro.value_turn)) for name, view in views.items()}
        current = self.family.evaluate(micro, want=self.objective.extras)
        loss = self.objective(micro, current, mine)
        loss.total.backward()
        metrics = loss.metrics
        gap = (current.logp.detach() - micro.logp_behavior).abs()
        for index, source in enumerate(micro.sources):
            live = micro.sampled & (micro.source == index)
            if first and bool(live.any()):
                metrics.append(Metric.of("sampling/sampling_logp_difference", gap[live].tolist(), source=source))
            if current.entropy is not None and bool(live.any()):
                metrics.append(Metric.of("entropy", current.entropy.detach()[live].tolist(), source=source))
        return metrics, loss.parts

    def state(self) -> dict[str, object]:
        return {"adamw": self.optimizer.adamw.state_dict(), "skipped": self.optimizer.skipped}

    def restore(self, state: Mapping[str, object]) -> None:
        self.optimizer.adamw.load_state_dict(state["adamw"])  # type: ignore[arg-type]
        self.optimizer.skipped = int(state["skipped"])  # type: ignore[call-overload]


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


def _cut(view: Evaluated, start: int, size: int, first_value: int, num_values: int) -> Evaluated:
    kept = {f.name: getattr(view, f.name) for f in fields(view)}
    kept["logp"] = view.logp[start : start + size]
    if view.entropy is not None:
        kept["entropy"] = view.entropy[start : start + size]
    if view.value is not None:
        kept["value"] = view.value[first_value : first_value + num_values]
    return Evaluated(**kept)
