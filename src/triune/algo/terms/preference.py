"""Preference losses over pairs of answers: what DPO and its relatives share, and those that are a function of one contrast.

An answer's log-prob is the sum over its decisions in the loss, sampled or placed, each times its `Credit.scale` (1 without
one), and never over the prompt; its length is their number. D is the contrast (l_w - l_w^ref) - (l_l - l_l^ref). Losses are
means over the pairs of the whole mini-batch. Terms with a reference ask for one more forward pass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.pairs import PairRule, comparable, make, seats
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, Rewards, segment_sum
from triune.algo.weights import trained
from triune.core.schedule import Schedule
from triune.monitor.metric import Metric


def answer_sum(batch: Batch, values: Tensor) -> Tensor:
    """The sum of `values` [N] over each answer's decisions in the loss, times their scale: [B], at an episode's first row."""
    # Decisions outside the loss may hold anything (a forced token may be impossible): replace before multiplying.
    kept = torch.where(batch.live, values, 0.0) * batch.weight
    return segment_sum(kept, _owner(batch), len(batch.trajectories))


def answer_length(batch: Batch, like: Tensor) -> Tensor:
    """Decisions in the loss of each answer, at least 1: [B] of `like`'s type."""
    return segment_sum(batch.live.to(like.dtype), _owner(batch), len(batch.trajectories)).clamp(min=1)


def _owner(batch: Batch) -> Tensor:
    return seats(batch).to(batch.trajectory.device)[batch.trajectory]


@dataclass(slots=True)
class Side:
    """One side of P pairs, all [P]: log-prob of the answer now (with gradient) and under the reference (0 without one), its
    length in decisions, and its reward f64."""

    logp: Tensor
    reference: Tensor
    length: Tensor
    reward: Tensor

    @property
    def ratio(self) -> Tensor:
        """log pi(y) - log pi_ref(y)."""
        return self.logp - self.reference

    @property
    def mean(self) -> Tensor:
        """The mean log-prob of a decision."""
        return self.logp / self.length

    def ahead(self, other: Side) -> Tensor:
        """By how much its reward is larger. Subtracted in float64: rewards may be large and close to each other."""
        return (self.reward - other.reward).to(self.logp.dtype)


class AnswerTerm(TermOptions):
    """A loss over whole answers: the rollouts of a group stay together, so that none is seen in part."""

    tokens: ClassVar[Literal["sampled", "placed", "all"]] = "all"
    couples: ClassVar[bool] = True
    anchored: ClassVar[bool] = True
    """Whether it compares with a reference."""

    reference: str = Field(default="reference", description="view that answers are compared with")

    @property
    def grouped(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        if not self.anchored:
            return frozenset()
        return frozenset({"old.placed" if self.reference == "old" else self.reference})

    def ratio(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> Tensor:
        """log pi(y) - log pi_ref(y) of every row [B], at an episode's first row."""
        return answer_sum(batch, current.logp) - answer_sum(batch, views[self.reference].logp)


class PairTerm(AnswerTerm):
    """A loss over pairs (winner, loser): `contrast` gives it per pair."""

    beside: ClassVar[bool] = False
    """Whether it stands beside another loss on the same pairs, which measures them."""

    pairs: PairRule = Field(default=PairRule(), description="which rows of a group are compared")

    @abstractmethod
    def contrast(self, winner: Side, loser: Side) -> Tensor:
        """The loss of each pair [P]."""

    @abstractmethod
    def implied(self, side: Side) -> Tensor:
        """The reward that the policy itself implies for an answer [P]: what the loss drives apart."""

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        return paired(self, self.pairs, batch, credit, rewards, rows)

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        winner, loser = self.sides(batch, current, views)
        loss = self.contrast(winner, loser)
        metrics = [] if self.beside else self.measured(batch, winner, loser)
        return TermResult(loss=(loss * batch.pair_weight).sum(), metrics=metrics)

    def sides(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> tuple[Side, Side]:
        """Winners and losers of the batch's pairs."""
        logp = answer_sum(batch, current.logp)
        reference = torch.zeros_like(logp)
        if self.anchored:
            reference = answer_sum(batch, views[self.reference].logp)
        length = answer_length(batch, logp)
        reward = batch.reward.to(logp.device)

        def side(rows: Tensor) -> Side:
            return Side(logp[rows], reference[rows], length[rows], reward[rows])

        return side(batch.pairs[:, 0]), side(batch.pairs[:, 1])

    def measured(self, batch: Batch, winner: Side, loser: Side) -> list[Metric]:
        """Per source: the pairs, how often the policy implies what was preferred, and by how much."""
        won, lost = self.implied(winner).detach(), self.implied(loser).detach()
        values = {
            "accuracy": (won > lost).double() + 0.5 * (won == lost).double(),
            "margin": won - lost,
            "chosen": won,
            "rejected": lost,
            "chosen_logp": winner.logp.detach(),
            "rejected_logp": loser.logp.detach(),
        }
        labels = {"component": self.component} if self.component != "policy" else {}
        named = {f"preference/{name}": value for name, value in values.items()}
        return [*per_group(batch, **labels), *per_pair(batch, named, **labels)]


def paired(
    term: TermOptions, rule: PairRule, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor
) -> Share:
    """The share of a term over pairs of the mini-batch `rows`: 1 on each of its decisions, and the pairs' global means."""
    live = trained(term, batch, credit, rows)
    eligible = comparable(batch, live, rewards.total, credit)
    found = make(batch, rewards.total, eligible, rule)
    return Share(live=live, weight=live.float(), pairs=found.rows, pair_weight=found.weight)


def per_pair(batch: Batch, values: Mapping[str, Tensor], **labels: str) -> list[Metric]:
    """Values of pairs [P] by the source of the winner; nothing where there are none."""
    source = [batch.trajectories[int(row)].source for row in batch.pairs[:, 0].tolist()]
    return [
        Metric.of(
            name, [v for v, s in zip(value.tolist(), source, strict=True) if s == one], source=one, **labels
        )
        for one in dict.fromkeys(source)
        for name, value in values.items()
    ]


def per_group(batch: Batch, **labels: str) -> list[Metric]:
    """Per source: `pairs`, the number of a group (its total is their number; a tie in both directions is one), and
    `pairs/none`, the share of groups without any."""
    live = segment_sum(batch.live.double(), batch.trajectory, len(batch.trajectories)).tolist()
    groups = {t.group: t.source for t, n in zip(batch.trajectories, live, strict=True) if n}
    found = dict.fromkeys(groups, 0)
    for a, b in {(min(pair), max(pair)) for pair in batch.pairs.tolist()}:
        found[batch.trajectories[a].group] += a != b
    out: list[Metric] = []
    for source in dict.fromkeys(groups.values()):
        counts = [count for key, count in found.items() if groups[key] == source]
        out.append(Metric.of("pairs", counts, source=source, **labels))
        out.append(Metric.of("pairs/none", [float(count == 0) for count in counts], source=source, **labels))
    return out


class Contrast(PairTerm):
    """A pair term whose implied reward is beta (l - l^ref), as in DPO."""

    beta: float = Field(default=0.1, gt=0, description="strength of the tie to the reference")

    def implied(self, side: Side) -> Tensor:
        return self.beta * side.ratio


class Margin(Contrast):
    """A contrast that must exceed a margin."""

    margin: float = Field(default=0.0, description="by how much beta D must exceed 0")
    margin_per_reward: float = Field(
        default=0.0, ge=0, description="and by this much more per unit that the rewards of the pair differ"
    )

    def excess(self, winner: Side, loser: Side) -> Tensor:
        """beta D minus the margin [P]."""
        wanted = self.margin + self.margin_per_reward * winner.ahead(loser)
        return self.implied(winner) - self.implied(loser) - wanted


@TERMS.register("dpo")
class DPO(Margin):
    """-log sigmoid(beta D) (Rafailov et al. 2023, eq. 7): direct preference optimisation.

    d loss / d l_w = -beta sigmoid(-beta D), and the opposite for l_l. One more forward pass (reference).
    """

    kind: Literal["dpo"] = "dpo"

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        return -logsigmoid(self.excess(winner, loser))


@TERMS.register("cdpo")
class ConservativeDPO(Margin):
    """-(1 - e) log sigmoid(z) - e log sigmoid(-z), z = beta D: DPO where a share e of the labels is taken to be wrong
    (Mitchell 2023). It stops at sigmoid(z) = 1 - e. One more forward pass (reference)."""

    kind: Literal["cdpo"] = "cdpo"
    label_smoothing: float = Field(ge=0, lt=0.5, description="share e of labels that are wrong")

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        z, e = self.excess(winner, loser), self.label_smoothing
        return -(1 - e) * logsigmoid(z) - e * logsigmoid(-z)


@TERMS.register("robust_dpo")
class RobustDPO(Margin):
    """(-(1 - e) log sigmoid(z) + e log sigmoid(-z)) / (1 - 2e), z = beta D: DPO's loss without the bias that a share e of
    wrong labels gives it (Chowdhury et al. 2024). One more forward pass (reference)."""

    kind: Literal["robust_dpo"] = "robust_dpo"
    label_smoothing: float = Field(ge=0, lt=0.5, description="share e of labels that are wrong")

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        z, e = self.excess(winner, loser), self.label_smoothing
        return (-(1 - e) * logsigmoid(z) + e * logsigmoid(-z)) / (1 - 2 * e)


@TERMS.register("ipo")
class IPO(Contrast):
    """(D - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17): Identity Preference Optimisation.

    `per: token` divides each side by its length first (TRL, after the paper's authors), `per: answer` takes the sums. The
    gradient is 2 (D - 1 / (2 beta)), with + for the winner. This is no policy-ratio loss; a loss of the same name in prime-rl
    is something else. One more forward pass (reference).
    """

    kind: Literal["ipo"] = "ipo"
    per: Literal["token", "answer"] = Field(
        default="token", description="log-ratios are means over an answer's tokens, or sums"
    )

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        won, lost = winner.ratio, loser.ratio
        if self.per == "token":
            won, lost = won / winner.length, lost / loser.length
        return (won - lost - 1 / (2 * self.beta)).square()


@TERMS.register("hinge")
class Hinge(Margin):
    """max(0, margin - beta D) (Zhao et al. 2023, SLiC): nothing once the contrast is large enough. One more forward pass
    (reference)."""

    kind: Literal["hinge"] = "hinge"
    margin: float = Field(default=1.0, description="from which beta D on a pair costs nothing")

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        return torch.relu(-self.excess(winner, loser))


@TERMS.register("sppo")
class SPPO(Contrast):
    """(a - 1 / (2 beta))^2 + (b + 1 / (2 beta))^2, a and b the log-ratios of winner and loser (Wu et al. 2024, eq. 4.7 with
    hard labels): each answer is drawn to a value of its own. One more forward pass (reference)."""

    kind: Literal["sppo"] = "sppo"

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        goal = 1 / (2 * self.beta)
        return (winner.ratio - goal).square() + (loser.ratio + goal).square()


@TERMS.register("simpo")
class SimPO(PairTerm):
    """-log sigmoid(beta (mean l_w - mean l_l) - gamma) (Meng et al. 2024, eq. 6): no reference, means over an answer's
    tokens, and a margin. Both constants are tuned per model in the paper, so neither has a default here."""

    anchored: ClassVar[bool] = False

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(gt=0, description="scale of the mean log-prob of a token")
    gamma: float = Field(ge=0, description="by how much the winner's must be larger")

    def implied(self, side: Side) -> Tensor:
        return self.beta * side.mean

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        return -logsigmoid(self.implied(winner) - self.implied(loser) - self.gamma)


@TERMS.register("orpo")
class OddsRatio(PairTerm):
    """-log sigmoid(log odds_w - log odds_l), odds = p / (1 - p) of the mean token probability (Hong et al. 2024, eq. 7).

    ORPO adds the winner's mean NLL (term `chosen_nll`); this part's `coef` is its lambda. No reference."""

    anchored: ClassVar[bool] = False

    kind: Literal["orpo"] = "orpo"
    coef: float | Schedule = Field(default=0.1, description="lambda of the paper, beta in TRL")

    def implied(self, side: Side) -> Tensor:
        # A log-prob that rounds to 0 has infinite odds: one unit of precision keeps both value and gradient finite.
        mean = side.mean.clamp(max=-torch.finfo(side.mean.dtype).eps)
        return mean - torch.log(-torch.expm1(mean))

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        return -logsigmoid(self.implied(winner) - self.implied(loser))
