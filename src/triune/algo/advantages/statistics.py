"""What estimators share: the rewards of a step by group, with float64 statistics over the rollouts that count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from triune.algo.advantage import EQUAL, group_index, membership
from triune.algo.options import Options
from triune.algo.types import Batch, Credit, Evaluated, Rewards, segment_sum
from triune.core.errors import RecipeError, TriuneError

Singleton = Literal["zero", "raw", "error"]


def equal(low: Tensor, high: Tensor) -> Tensor:
    """Whether values between these bounds are one value: rounding is not a signal."""
    return high - low <= EQUAL * torch.maximum(high.abs(), low.abs())


def extreme(
    reduce: Literal["amin", "amax"], values: Tensor, counted: Tensor, index: Tensor, count: int
) -> Tensor:
    """The least or the greatest counted value of every group; infinite where none counts."""
    empty = float("inf") if reduce == "amin" else float("-inf")
    start = torch.full((count,), empty, dtype=values.dtype)
    return start.scatter_reduce(0, index, torch.where(counted, values, empty), reduce)


def spread(values: Tensor, ddof: int) -> Tensor:
    """The std of some values; 0 for fewer than two."""
    if len(values) < 2:
        return torch.zeros((), dtype=values.dtype)
    # Squares of what is at most 1 in size: neither huge nor tiny values leave the range of a float.
    centred = values - values.mean()
    size = centred.abs().max()
    size = torch.where(size > 0, size, 1.0)
    return size * (centred / size).std(correction=ddof)


def whiten(values: Tensor, live: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the live values of the whole step, n-1 in the variance; exactly 0 where they
    are all equal, and for those that are not live."""
    chosen = values[live]
    if len(chosen) < 2 or bool(equal(chosen.min(), chosen.max())):
        return torch.zeros_like(values)
    scale = torch.hypot(spread(chosen, 1), torch.tensor(eps, dtype=values.dtype).sqrt())
    return torch.where(live, (values - chosen.mean()) / scale, 0.0)


@dataclass(slots=True)
class Groups:
    """The judged rewards of a step, and the groups that they belong to.

    index i64[B]; reward f64[B], 0 where there is none; judged bool[B]: has one and is trained; counted bool[B]: is in
    its group's statistics too. members f64[groups]: how many count. alone bool[groups]: the only member keeps its raw
    reward, as if the mean were 0 and the std 1. silent bool[groups]: fewer than two members, or rewards that are
    equal: every advantage is exactly 0.
    """

    batch: Batch
    index: Tensor
    reward: Tensor
    judged: Tensor
    counted: Tensor
    in_loss: Tensor
    reasons: list[str]
    members: Tensor
    alone: Tensor
    silent: Tensor

    @classmethod
    def of(cls, batch: Batch, rewards: Rewards, singleton: Singleton = "zero") -> Groups:
        """Raises RecipeError for a group of one rollout where `singleton` is "error"."""
        in_loss, counted, reasons = membership(batch, rewards)
        index, count = group_index(batch)
        if singleton == "error":
            abstained = torch.tensor([reason == "abstained" for reason in reasons])
            _refuse_singletons(batch, index, count, counted | abstained)
        none = torch.zeros(count, dtype=torch.bool)
        blank = cls(
            batch, index, rewards.total, in_loss, counted, in_loss, reasons, none.double(), none, none
        )
        return blank.about(rewards.total, singleton)

    def about(self, values: Tensor, singleton: Singleton = "zero") -> Groups:
        """The same rollouts, judged by other values f64[B] (NaN where there is none). Raises TriuneError for an infinite
        one: nothing can be compared with it."""
        judged = self.judged & ~torch.isnan(values)
        counted = self.counted & judged
        reward = torch.where(judged, values, 0.0).double()
        for row in torch.nonzero(reward.isinf())[:, 0].tolist():
            name = self.batch.trajectories[row].id
            raise TriuneError(
                f"rollout {name!r} has the reward {float(reward[row])}, which nothing can be compared with"
            )
        members = segment_sum(counted.double(), self.index, len(self.members))
        low = extreme("amin", reward, counted, self.index, len(members))
        high = extreme("amax", reward, counted, self.index, len(members))
        alone = (members == 1) & (singleton == "raw")
        silent = ~alone & ((members < 2) | equal(low, high))
        return replace(
            self,
            reward=reward,
            judged=judged,
            counted=counted,
            members=members,
            alone=alone,
            silent=silent,
        )

    def sum(self, values: Tensor) -> Tensor:
        """Per group, over the members that count: f64[groups]."""
        return segment_sum(torch.where(self.counted, values, 0.0), self.index, len(self.members))

    def mean(self, values: Tensor) -> Tensor:
        """Per group; 0 for one that is empty, or alone with its raw reward."""
        return torch.where(self.alone, 0.0, self.sum(values) / self.members.clamp(min=1))

    def centred(self) -> Tensor:
        """Reward minus the mean of its group: f64[B]."""
        return torch.where(self.judged, self.reward - self.mean(self.reward)[self.index], 0.0)

    def extreme(self, reduce: Literal["amin", "amax"], values: Tensor) -> Tensor:
        return extreme(reduce, values, self.counted, self.index, len(self.members))

    def std(self, centred: Tensor, ddof: int) -> Tensor:
        """Deviation per group of values that are centred already; 1 for a group that is alone."""
        # Squares of what is at most 1 in size: neither huge nor tiny rewards leave the range of a float.
        size = self.extreme("amax", centred.abs())
        size = torch.where(torch.isfinite(size) & (size > 0), size, 1.0)
        squares = self.sum((centred / size[self.index]).square())
        return torch.where(self.alone, 1.0, size * (squares / (self.members - ddof).clamp(min=1)).sqrt())

    def credit(self, advantage: Tensor) -> Credit:
        """Credit from an advantage per rollout, f64[B]; silent groups get exactly 0 and are marked degenerate."""
        quiet = self.silent[self.index]
        found = self.credit_decisions(torch.where(quiet, 0.0, advantage)[self.batch.trajectory])
        found.degenerate = self.silent
        return found

    def credit_decisions(self, advantage: Tensor) -> Credit:
        """Credit from an advantage per decision, f64[N], which only sampled decisions of judged rollouts keep.

        Raises TriuneError where one is not finite.
        """
        live = self.judged[self.batch.trajectory] & self.batch.sampled
        found = torch.where(live, advantage, 0.0).float()
        wrong = torch.nonzero(~torch.isfinite(found))[:, 0]
        if len(wrong):
            row = int(self.batch.trajectory[wrong[0]])
            raise TriuneError(
                f"the advantage of rollout {self.batch.trajectories[row].id!r} is not finite: its reward is "
                f"{float(self.reward[row])}; bring the rewards of its group to a sane scale"
            )
        return Credit(
            advantage=found,
            in_loss=self.in_loss,
            in_baseline=self.counted,
            reasons=self.reasons,
            degenerate=torch.zeros(len(self.members), dtype=torch.bool),
        )


def _refuse_singletons(batch: Batch, index: Tensor, count: int, own: Tensor) -> None:
    """`own` bool[B]: whole episodes of the policy itself, judged or not."""
    sizes = segment_sum(own.double(), index, count)
    for row in torch.nonzero(own & (sizes[index] == 1))[:, 0].tolist():
        raise RecipeError(
            f"group {batch.trajectories[row].group!r} has a single rollout, {batch.trajectories[row].id!r}, and nothing "
            "to compare it with: raise train.rollouts_per_prompt, or set algo.advantage.singleton to zero (no signal) "
            "or raw (its reward)"
        )


class Estimator(Options):
    """Base of advantages. What one says of itself here, the contract test holds it to, for every one that is registered."""

    @property
    def batch_wide(self) -> bool:
        """Whether rollouts of other groups take part in an advantage."""
        return False

    @property
    def keeps_equal(self) -> str:
        """Why equal rewards give something other than exact zeros; '' where they do not."""
        return ""


class GroupEstimator(Estimator):
    """An advantage per rollout from the rewards of its group; `estimate` is the whole of a subclass."""

    no_raw: ClassVar[str] = ""
    """Why a lone rollout cannot keep its raw reward; '' where it can."""

    singleton: Singleton = Field(
        default="zero",
        description="a group with one judged rollout: no signal, its raw reward, or an error if it was sampled alone",
    )

    @property
    def grouped(self) -> bool:
        return self.singleton != "raw"

    @model_validator(mode="after")
    def _raw_means_something(self) -> GroupEstimator:
        if self.no_raw and self.singleton == "raw":
            raise ValueError(f"singleton: raw is not possible here, {self.no_raw}: use zero or error")
        return self

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = Groups.of(batch, rewards, self.singleton)
        return groups.credit(self.estimate(groups))

    def estimate(self, groups: Groups) -> Tensor:
        """Advantages f64[B]; those of silent groups are replaced by 0."""
        raise NotImplementedError
