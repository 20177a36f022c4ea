"""How a step's rollouts become batches: order, micro-batches, rewards placed in time, and slices of flat vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triune.algo.share import Span
from triune.algo.types import Batch, Evaluated, Rewards
from triune.core.trajectory import Trajectory
from triune.core.verdict import Verdict
from triune.monitor.metric import Metric, Scored, scalar
from triune.policy.family import Family

Weigh = Callable[[Sequence[Trajectory]], tuple[int, int]]
"""Tokens that rollouts take when they are computed together, and how many of these are media's."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one micro-batch may hold."""

    tokens: int
    vision: int = 1 << 60

    def holds(self, weight: tuple[int, int]) -> bool:
        return weight[0] <= self.tokens and weight[1] <= self.vision


def weigher(family: Family) -> Weigh:
    """The family's own account of rollouts that share what they begin with, or the sum of their costs."""
    own: Weigh | None = getattr(family, "weigh", None)
    return own or (lambda many: (sum(map(family.cost, many)), sum(map(family.vision_cost, many))))


def split(
    scored: Sequence[Scored],
    weigh: Weigh,
    minibatches: int,
    budget: Budget,
    couples: bool = False,
    processes: int = 1,
) -> tuple[list[Scored], list[list[int]], list[list[int]], int]:
    """The rollouts in the order of the micro-batches; these, as lists of indices; which of them form each mini-batch; and
    how many are over the budget although they hold a single piece.

    Mini-batches hold whole prompts: all groups of a sample, for what stands beside its rollouts in a group of its own (a
    pair of pictures, an answer that is only compared with) would else fill mini-batches of its own, which trained on it
    alone, or on nothing. Within one, the fewest micro-batches under the budget are filled by longest-processing-time-first
    (Graham 1969): pieces by falling size, each into the emptiest. A piece is a group, or a part of one that does not fit:
    its prompt is then computed once per part. With `couples` groups stay whole.
    """
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(scored):
        groups.setdefault(one.trajectory.group, []).append(index)
    prompts: dict[tuple[str, str], list[list[int]]] = {}
    for rows in groups.values():
        first = scored[rows[0]].trajectory
        prompts.setdefault((first.source, first.sample), []).append(rows)
    keys = list(prompts)
    rank = {index: place for place, index in enumerate(i for rows in groups.values() for i in rows)}
    share = -(-len(keys) // minibatches)
    parts: list[list[int]] = []
    plan: list[list[int]] = []
    over = 0
    for start in range(0, len(keys), share):
        pieces = [
            piece
            for key in keys[start : start + share]
            for rows in prompts[key]
            for piece in _pieces(rows, scored, weigh, budget, couples)
        ]
        filled = _fill([(*w, sorted(rank[i] for i in rows)) for rows, w in pieces], budget, processes)
        over += sum(not budget.holds(w) for _, w in pieces)
        plan.append([*range(len(parts), len(parts) + len(filled))])
        parts += filled
    by_group = [scored[i] for i in rank]
    ends = list(accumulate(map(len, parts)))
    found = [[*range(end - len(part), end)] for end, part in zip(ends, parts, strict=True)]
    return [by_group[i] for part in parts for i in part], found, plan, over


def _pieces(
    group: list[int], scored: Sequence[Scored], weigh: Weigh, budget: Budget, whole: bool
) -> list[tuple[list[int], tuple[int, int]]]:
    """A group in as few even parts as fit, with their weights."""
    for count in range(1, 2 if whole else len(group) + 1):
        bounds = [round(i * len(group) / count) for i in range(count + 1)]
        pieces = [group[a:b] for a, b in pairwise(bounds)]
        weights = [weigh([scored[i].trajectory for i in rows]) for rows in pieces]
        if all(map(budget.holds, weights)):
            break
    return list(zip(pieces, weights, strict=True))


def _fill(pieces: Sequence[tuple[int, int, list[int]]], budget: Budget, processes: int) -> list[list[int]]:
    """As few micro-batches as hold the pieces (tokens, vision tokens, rollouts) and give every process one, balanced."""
    ordered = sorted(pieces, key=lambda piece: (-piece[0], piece[2]))
    alone = [rows for tokens, vision, rows in ordered if not budget.holds((tokens, vision))]
    others = [piece for piece in ordered if budget.holds(piece[:2])]
    least = max(
        -(-sum(piece[0] for piece in others) // budget.tokens),
        -(-sum(piece[1] for piece in others) // budget.vision),
        min(processes - len(alone), len(others)),
    )
    for count in range(least, len(others) + 1):
        bins: list[tuple[int, int, list[int]]] = [(0, 0, []) for _ in range(count)]
        for tokens, vision, rows in others:
            fits = [i for i, b in enumerate(bins) if budget.holds((b[0] + tokens, b[1] + vision))]
            if not fits:
                break
            best = min(fits, key=lambda i: bins[i][0])
            held = bins[best]
            bins[best] = held[0] + tokens, held[1] + vision, held[2] + rows
        else:
            return sorted(sorted(rows) for rows in (*alone, *(b[2] for b in bins)) if rows)
    raise AssertionError("every piece fits a micro-batch of its own")


def laid_out(micros: Sequence[Batch]) -> list[Metric]:
    """How the micro-batches of a step were laid out, where the family chooses: their number by kind, and the tokens and
    the estimated cost of all of them, in comparison with a row per rollout."""
    choices = [micro.payload.choice for micro in micros if hasattr(micro.payload, "choice")]
    if not choices:
        return []
    kinds = Counter(choice.layout for choice in choices)
    cost = sum(choice.cost for choice in choices) / max(1.0, sum(choice.padded for choice in choices))
    return [
        *(scalar("layout/micro_batches", count, layout=kind) for kind, count in kinds.items()),
        scalar("layout/tokens", sum(choice.tokens for choice in choices)),
        scalar("layout/cost_of_padded", cost),
    ]


def rewards(batch: Batch, verdicts: Sequence[Verdict]) -> Rewards:
    """Totals (NaN where the judge abstained) and their placement: events at their decisions, the rest at the end.

    Events index the episode's decisions: a fragment or a branch takes those that fall on decisions it owns, and only
    the row that the episode ends in takes the rest.
    """
    placed = torch.zeros(batch.num_decisions, dtype=torch.float64)
    total = torch.full((len(verdicts),), float("nan"), dtype=torch.float64)
    correct, parts, weights = total.clone(), dict[str, Tensor](), dict[str, Tensor]()
    start = 0
    for index, (trajectory, verdict) in enumerate(zip(batch.trajectories, verdicts, strict=True)):
        size, before = len(trajectory.decisions), trajectory.step_offset + trajectory.fork
        if verdict.correct is not None:
            correct[index] = float(verdict.correct)
        if verdict.reward is not None:
            total[index] = verdict.reward
            scale = sum(c.weight for c in verdict.components) if verdict.normalized else 1.0
            rest = verdict.reward
            for part in verdict.components:
                value = 0.0 if part.gated or part.value is None else part.weight * part.value / scale
                for table, one in ((parts, value), (weights, part.weight / scale)):
                    table.setdefault(part.name, torch.full_like(total, float("nan")))[index] = one
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
    return Rewards(total, placed, parts, weights, correct)


def spans(micros: Sequence[Batch]) -> list[Span]:
    """Where each micro-batch lies in the vectors of the whole step."""
    found, decision, value, row = [], 0, 0, 0
    for micro in micros:
        ends = decision + micro.num_decisions, value + len(micro.value_turn), row + len(micro.trajectories)
        found.append(Span(slice(decision, ends[0]), slice(value, ends[1]), slice(row, ends[2])))
        decision, value, row = ends
    return found


def join(micros: Sequence[Batch]) -> Batch:
    """One batch of flat vectors over all micro-batches, without payload."""
    offset = 0
    trajectories, value_trajectory = [], []
    for micro in micros:
        trajectories += list(micro.trajectories)
        value_trajectory.append(micro.value_trajectory + offset)
        offset += len(micro.trajectories)
    whole = Batch.of(
        trajectories,
        None,
        value_trajectory=torch.cat(value_trajectory),
        value_turn=torch.cat([micro.value_turn for micro in micros]),
    )
    whole.turn = torch.cat([micro.turn for micro in micros])  # a family may count turns of its own
    return whole


def per_trajectory(batch: Batch, advantage: Tensor) -> list[float]:
    """The mean advantage of each trajectory's sampled decisions, for people to look at."""
    ones = batch.sampled.float()
    sums = torch.zeros(len(batch.trajectories)).index_add(0, batch.trajectory, advantage * ones)
    counts = torch.zeros(len(batch.trajectories)).index_add(0, batch.trajectory, ones)
    return (sums / counts.clamp(min=1)).tolist()


def per_decision(batch: Batch, advantage: Tensor) -> list[NDArray[np.float32] | None]:
    """The advantages f32[N] of each trajectory's decisions, None where all of its sampled ones have the same."""
    ones, count = batch.sampled, len(batch.trajectories)
    most = torch.full((count,), -torch.inf).scatter_reduce(0, batch.trajectory[ones], advantage[ones], "amax")
    least = torch.full((count,), torch.inf).scatter_reduce(0, batch.trajectory[ones], advantage[ones], "amin")
    parts = advantage.float().split([len(t.decisions) for t in batch.trajectories])
    differ = (most > least).tolist()
    return [part.numpy().copy() if apart else None for part, apart in zip(parts, differ, strict=True)]


def cut(view: Evaluated, span: Span) -> Evaluated:
    """A micro-batch's part of a view."""

    def of(values: Tensor | None, part: slice) -> Tensor | None:
        return None if values is None else values[part]

    return Evaluated(
        logp=view.logp[span.decisions],
        entropy=of(view.entropy, span.decisions),
        value=of(view.value, span.values),
        extras={key: values[span.decisions] for key, values in view.extras.items()},
    )
