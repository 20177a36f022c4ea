"""Weights that carry the global denominators: with them every loss is a plain sum, however a step is cut into pieces."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from triune.algo.advantage import group_index
from triune.algo.collect.replay import LAG
from triune.algo.options import TermOptions
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, segment_sum
from triune.monitor.metric import Metric


def trained(term: TermOptions, batch: Batch, credit: Credit, rows: Tensor) -> Tensor:
    """The decisions bool[N] that a term trains: of its component, in the loss, sampled or placed as it says, not masked."""
    mine = torch.tensor([name == term.component for name in batch.components])
    live = mine[batch.component] & (credit.in_loss & rows)[batch.trajectory]
    if term.tokens != "all":
        live = live & (batch.sampled if term.tokens == "sampled" else ~batch.sampled)
    return live if credit.masked is None else live & ~credit.masked


def decisions(term: TermOptions, batch: Batch, credit: Credit, rows: Tensor) -> Share:
    """The share of a term that is a sum over decisions: weights by its `aggregate`, over the mini-batch `rows` bool[B].

    token-mean: 1 / decisions. group-token-mean: 1 / (decisions of the group x groups). seq-mean-token-mean: 1 / (decisions
    of the rollout x rollouts). seq-mean-token-sum: 1 / rollouts. sum-const: 1 / L, for Dr.GRPO as verl has it. Only groups
    and rollouts that have a trained decision are counted; but all rollouts in the loss are, as in TRL, by
    seq-mean-token-mean-all and by seq-mean-token-sum-const, 1 / (L x rollouts), for Dr.GRPO as TRL has it.
    """
    live = trained(term, batch, credit, rows)
    return Share(live=live, weight=_averaged(term, batch, credit, rows, live, batch.trajectory))


def _averaged(
    term: TermOptions, batch: Batch, credit: Credit, rows: Tensor, live: Tensor, trajectory: Tensor
) -> Tensor:
    """Weights f32 of what is `live`, each of the row `trajectory`: decisions, or value read-outs."""
    ones = live.float()
    mine = torch.tensor([t.component == term.component for t in batch.trajectories], dtype=torch.bool)
    everyone = (rows & credit.in_loss & mine).sum().clamp(min=1)
    lengths = segment_sum(ones, trajectory, len(batch.trajectories))
    sequences = (lengths > 0).sum().clamp(min=1)
    match term.aggregate:
        case "seq-mean-token-mean":
            divisor = lengths.clamp(min=1)[trajectory] * sequences
        case "seq-mean-token-mean-all":
            divisor = lengths.clamp(min=1)[trajectory] * everyone
        case "seq-mean-token-sum":
            divisor = sequences
        case "sum-const":
            divisor = torch.tensor(_constant(term))
        case "seq-mean-token-sum-const":
            divisor = _constant(term) * everyone
        case "group-token-mean":
            group, count = group_index(batch)
            sizes = segment_sum(ones, group[trajectory], count)
            divisor = sizes.clamp(min=1)[group[trajectory]] * (sizes > 0).sum().clamp(min=1)
        case _:
            divisor = ones.sum().clamp(min=1)
    return ones / divisor


def _constant(term: TermOptions) -> float:
    assert term.constant is not None, "checked when the objective was built"
    return term.constant


def readouts(term: TermOptions, batch: Batch, credit: Credit, rows: Tensor) -> Share:
    """The share of a term over value read-outs, f32[V]: averaged by its `aggregate` as decisions are (token-mean: 1 / their
    number), over the mini-batch `rows`.

    0 where no trained decision follows in its turn (the bootstrap of a truncated episode, a turn that was placed): such
    a value has no return of its own to be regressed on.
    """
    share = decisions(term, batch, credit, rows)
    turns = 1 + int(torch.cat([batch.turn, batch.value_turn, batch.turn.new_zeros(1)]).max())
    followed = (batch.trajectory * turns + batch.turn)[share.live]
    read = torch.isin(batch.value_trajectory * turns + batch.value_turn, followed)
    share.value_weight = _averaged(term, batch, credit, rows, read, batch.value_trajectory)
    return share


def by_source(batch: Batch, live: Tensor, values: Mapping[str, Tensor], **labels: str) -> list[Metric]:
    """Each per-decision value over the live decisions of every source; nothing where there are none."""
    out: list[Metric] = []
    for index, source in enumerate(batch.sources):
        mine = live & (batch.source == index)
        if bool(mine.any()):
            for name, value in values.items():
                out.append(Metric.of(name, value.detach()[mine].tolist(), source=source, **labels))
    return out


def replayed(batch: Batch) -> Tensor:
    """Which rows are not of this step but replayed, bool[B]."""
    return torch.tensor([LAG in one.resolved for one in batch.trajectories], dtype=torch.bool)


def left_out(batch: Batch, credit: Credit) -> list[Metric]:
    """What gives no gradient whatever the policy does: groups whose rewards, as they were shaped, do not differ, and sampled
    decisions that are masked; shares per source."""
    found: dict[str, dict[str, float]] = {}
    index, _ = group_index(batch)
    for row, one in enumerate(batch.trajectories):
        if bool(credit.in_baseline[row]):
            found.setdefault(one.source, {})[one.group] = float(credit.degenerate[index[row]])
    metrics = [Metric.of("degenerate", groups.values(), source=source) for source, groups in found.items()]
    if credit.masked is None:
        return metrics
    return metrics + by_source(batch, batch.sampled, {"dropped/decisions": credit.masked.float()})


def watched(micro: Batch, current: Evaluated, first: bool) -> list[Metric]:
    """What is always measured of the decisions that the policy sampled in this step, per source: their entropy where it was
    evaluated, and, while the weights have not moved (`first`), the learner's log-probs against the engine's."""
    values = {}
    if first:
        values["sampling/sampling_logp_difference"] = (current.logp.detach() - micro.logp_behavior).abs()
    if current.entropy is not None:
        values["entropy"] = current.entropy
    return by_source(micro, micro.sampled & ~replayed(micro)[micro.trajectory], values)
