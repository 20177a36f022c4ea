"""Preference losses over a whole group of answers to one prompt: the anchored softmax of ADPO, Plackett-Luce, LambdaRank.

Each is a mean over the groups of the mini-batch in which rewards differ. The answers of a group stay in one micro-batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from triune.algo.objective import TermResult
from triune.algo.options import TERMS
from triune.algo.pairs import EQUAL, comparable
from triune.algo.share import Share
from triune.algo.terms.preference import AnswerTerm, answer_length, answer_sum
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.algo.weights import trained
from triune.monitor.metric import Metric


@dataclass(frozen=True, slots=True)
class Group:
    """What else is known of a group's answers: `nll` f[n], the mean of a token now, and `value` f[n] of the mini-batch."""

    nll: Tensor
    value: Tensor


class ListTerm(AnswerTerm):
    """A loss over the judged answers of a group: `listed` gives it per group.

    `row_weight` is 1 / the number of groups for every answer of a group that counts. A group of one counts nothing, nor does
    one whose rewards are all equal.
    """

    @abstractmethod
    def listed(self, score: Tensor, reward: Tensor, group: Group) -> Tensor:
        """The loss of one group, from log-ratios [n] (with gradient) and rewards f64[n]."""

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        live = trained(self, batch, credit, rows)
        eligible = comparable(batch, live, rewards.total, credit)
        weight = torch.zeros(len(batch.trajectories))
        counted = [
            members
            for members in _groups(batch, eligible).values()
            if len(members) > 1 and self.informative(rewards.total[members])
        ]
        for members in counted:
            weight[members] = 1 / len(counted)
        share = Share(live=live, weight=live.float(), row_weight=weight)
        share.row_value = self.known(batch, rewards, counted)
        return share

    def informative(self, reward: Tensor) -> bool:
        """Whether a group with these rewards says anything."""
        low, high = float(reward.min()), float(reward.max())
        return high - low > EQUAL * max(abs(low), abs(high))

    def known(self, batch: Batch, rewards: Rewards, counted: list[list[int]]) -> Tensor:
        """What only the whole mini-batch knows of each row f32[B]; empty if there is nothing."""
        return torch.zeros(0)

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        ratio = self.ratio(batch, current, views)
        nll = (-answer_sum(batch, current.logp) / answer_length(batch, ratio)).detach()
        loss = ratio[:0].sum()
        first: dict[str, list[bool]] = defaultdict(list)
        for members in _groups(batch, batch.row_weight > 0).values():
            rows = torch.tensor(members, device=ratio.device)
            score, reward = ratio[rows], batch.reward.to(ratio.device)[rows]
            value = batch.row_value[rows] if len(batch.row_value) else batch.row_value
            loss = loss + batch.row_weight[members[0]] * self.listed(score, reward, Group(nll[rows], value))
            ahead = bool(_level(reward, reward.max())[score.argmax()])
            first[batch.trajectories[members[0]].source].append(ahead)
        metrics = [Metric.of("preference/first", ahead, source=source) for source, ahead in first.items()]
        return TermResult(loss=loss, metrics=metrics)


def _groups(batch: Batch, chosen: Tensor) -> dict[str, list[int]]:
    """The chosen rows of every group."""
    table: dict[str, list[int]] = {}
    for index, one in enumerate(batch.trajectories):
        if bool(chosen[index]):
            table.setdefault(one.group, []).append(index)
    return table


def _level(reward: Tensor, other: Tensor) -> Tensor:
    """Which rewards equal another, bool[n]: rounding orders nothing."""
    return (reward - other).abs() <= EQUAL * torch.maximum(reward.abs(), other.abs())


@TERMS.register("adpo")
class ADPO(ListTerm):
    """-sum_i q_i log softmax_i((l_i - l_i^anchor) / tau) (anchored direct preference optimisation, arXiv 2510.18913).

    q = softmax(z(R) / beta_r), z = (R - mean) / (std + 1e-8) with n-1; with `one_hot` all of q is on the best answer, and a
    pair with tau = 1 / beta is DPO. The anchor is a view: the policy before the step (`old`, no further pass but for placed
    answers) or a reference. d loss / d l_i = (softmax_i - q_i) / tau.
    """

    kind: Literal["adpo"] = "adpo"
    reference: str = Field(default="old", description="view that anchors the scores")
    tau: float = Field(default=0.8, gt=0, description="temperature of the anchored scores")
    beta_reward: float = Field(default=0.5, gt=0, description="temperature of the target")
    one_hot: bool = Field(default=False, description="target: the best answer alone; equal ones share it")
    drop_failed: bool = Field(default=False, description="leaves out groups none of whose rewards is above 0")

    def informative(self, reward: Tensor) -> bool:
        """Equal rewards count: their target is uniform, which draws the policy back to its anchor."""
        return not self.drop_failed or bool((reward > 0).any())

    def target(self, reward: Tensor) -> Tensor:
        """q [n]."""
        if self.one_hot:
            best = _level(reward, reward.max()).to(reward.dtype)
            return best / best.sum()
        spread = reward - reward.mean()
        return torch.softmax(spread / (reward.std() + 1e-8) / self.beta_reward, 0)

    def temperature(self, group: Group) -> float:
        return self.tau

    def listed(self, score: Tensor, reward: Tensor, group: Group) -> Tensor:
        q, scaled = self.target(reward).to(score), score * (1 / self.temperature(group))
        if len(scaled) == 2:  # in DPO's own words, so that a pair is equal to it in every digit
            gap = scaled[0] - scaled[1]
            return -q[0] * logsigmoid(gap) - q[1] * logsigmoid(-gap)
        return -(q * torch.log_softmax(scaled, 0)).sum()


@TERMS.register("adpo_adaptive")
class AdaptiveADPO(ADPO):
    """ADPO with a temperature per group: tau (1 + uncertainty H + penalty (1 - H) (1 - R)), within `bounds`.

    H is the group's mean token NLL over log V, at most 1; R its mean reward, from 0 for the least of the mini-batch to 1 for the
    greatest (0.5 where they are equal). Both carry no gradient, as in the author's recipe.
    """

    kind: Literal["adpo_adaptive"] = "adpo_adaptive"  # type: ignore[assignment]
    vocabulary: int = Field(ge=2, description="V, the number of tokens that the policy chooses from")
    uncertainty: float = Field(default=0.5, ge=0, description="more tau where tokens are unsure")
    penalty: float = Field(default=0.5, ge=0, description="more tau where the policy is sure and wrong")
    bounds: tuple[float, float] = Field(default=(0.05, 5.0), description="least and greatest tau")

    def known(self, batch: Batch, rewards: Rewards, counted: list[list[int]]) -> Tensor:
        value = torch.zeros(len(batch.trajectories))
        if not counted:
            return value
        means = torch.stack([rewards.total[members].mean() for members in counted])
        low, high = means.min(), means.max()
        place = (means - low) / (high - low) if high > low + 1e-6 else torch.full_like(means, 0.5)
        for members, share in zip(counted, place.tolist(), strict=True):
            value[members] = share
        return value

    def temperature(self, group: Group) -> float:
        unsure = min(1.0, max(0.0, float(group.nll.mean()) / math.log(self.vocabulary)))
        wrong = 1 - float(group.value[0])
        tau = self.tau * (1 + self.uncertainty * unsure + self.penalty * (1 - unsure) * wrong)
        return min(self.bounds[1], max(self.bounds[0], tau))


@TERMS.register("plackett_luce")
class PlackettLuce(ListTerm):
    """-sum_k log softmax of the k-th among the answers ranked k-th or lower: DPO on a ranking (Rafailov et al. 2023, A.3).

    Scores are beta (l - l^ref), the ranking is that of the rewards. `depth` stops after so many places. Equal
    rewards share their place: each is taken as the first of those, and the mean counts (Breslow). One more
    forward pass (reference).
    """

    kind: Literal["plackett_luce"] = "plackett_luce"
    beta: float = Field(default=0.1, gt=0, description="strength of the tie to the reference")
    depth: int | None = Field(default=None, ge=1, description="places that count; null: all")

    def listed(self, score: Tensor, reward: Tensor, group: Group) -> Tensor:
        order = torch.argsort(reward, descending=True, stable=True)
        scaled, ranked = self.beta * score[order], reward[order]
        loss, places = score[:0].sum(), len(score) - 1
        for place in range(min(places, self.depth or places)):
            first = int(_level(ranked, ranked[place]).nonzero()[0])
            if bool(_level(ranked[first:], ranked[first]).all()):
                break  # nothing below: the rest is one place
            loss = loss + torch.logsumexp(scaled[first:], 0) - scaled[place]
        return loss


@TERMS.register("lipo")
class LambdaRank(ListTerm):
    """-sum over R_i > R_j of lambda_ij log sigmoid(beta (D_i - D_j)) (Liu et al. 2024, LiPO-lambda, eq. 11), D the log-ratio.

    lambda_ij = |G_i - G_j| |1 / log(1 + place_i) - 1 / log(1 + place_j)|, gains G = 2^R - 1, places from 1 by the scores as they
    stand, without gradient. One more forward pass (reference).
    """

    kind: Literal["lipo"] = "lipo"
    beta: float = Field(default=0.1, gt=0, description="strength of the tie to the reference")

    def listed(self, score: Tensor, reward: Tensor, group: Group) -> Tensor:
        scaled = self.beta * score
        order = torch.argsort(scaled.detach(), descending=True, stable=True)
        place = torch.empty_like(reward)
        place[order] = torch.arange(1, len(reward) + 1, dtype=reward.dtype, device=reward.device)
        gain, discount = torch.exp2(reward) - 1, 1 / torch.log1p(place)
        weight = ((gain[:, None] - gain).abs() * (discount[:, None] - discount).abs()).to(score)
        better = reward[:, None] > reward
        loss = -weight * logsigmoid(scaled[:, None] - scaled)
        return torch.where(better, loss, 0.0).sum()
