"""Distillation on the policy's own rollouts: a teacher's opinion of every token, added to the advantage (KDRL)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantage import group_index
from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.ratio import log_ratio
from triune.algo.step import Step
from triune.algo.types import segment_sum
from triune.algo.weights import by_source
from triune.core.schedule import Progress, Schedule, resolve
from triune.monitor.metric import Metric


@ADJUSTMENTS.register("distill")
class Distill(AdjustOptions):
    """A + beta d per decision, d = log p_teacher - log p_old without gradient (KDRL, arXiv 2506.02208).

    As an advantage, d is the gradient of -KL(policy || teacher), the same as the term `kl` with `form: k2` against the
    teacher. `on` leaves it out where it is not needed: `failed`, on rollouts that are correct (KDRL's response mask);
    `failed_groups`, unless no rollout of the group is (its group mask). Rollouts that nobody could judge are out of the
    loss anyway. Costs one forward pass of the teacher per rollout.
    """

    kind: Literal["distill"] = "distill"
    beta: float | Schedule = Field(
        description="weight of the teacher, or a schedule of it (the paper's is not confirmed)"
    )
    teacher: str = Field(default="teacher", description="the view that scores the tokens")
    on: Literal["all", "failed", "failed_groups"] = Field(
        default="all", description="rollouts that are distilled on"
    )
    ends: bool = Field(
        default=True,
        description="the last token of a finished turn too; false where the teacher ends turns otherwise",
    )
    replace: bool = Field(
        default=False, description="in place of the advantage instead of beside it: distillation alone"
    )
    bound: float | None = Field(default=None, gt=0, description="largest |d| that counts; null: any")
    component: str = Field(default="policy", description="rollouts that it is about, by their `component`")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old", self.teacher})

    def weight(self, progress: Progress) -> float:
        """beta at this progress."""
        return self.beta if isinstance(self.beta, (int, float)) else resolve(self.beta, progress)

    def __call__(self, step: Step) -> list[Metric]:
        batch, credit = step.batch, step.credit
        assert credit is not None
        live = step.sampled_in_loss(self.component)
        gap = log_ratio(live, step.views[self.teacher].logp, step.views["old"].logp)
        pulled = live & self._rows(step)[batch.trajectory]
        if not self.ends:
            pulled &= ~turn_ends(step)
        pull = torch.where(pulled, gap if self.bound is None else gap.clamp(-self.bound, self.bound), 0.0)
        before = torch.where(live, 0.0, credit.advantage) if self.replace else credit.advantage
        credit.advantage = before + self.weight(step.progress) * pull
        return by_source(batch, live, {"distill/gap": gap, "distill/share": pulled})

    def _rows(self, step: Step) -> Tensor:
        """The rows bool[B] that are distilled on."""
        right = step.rewards.correct == 1
        if self.on == "all":
            return torch.ones_like(right)
        if self.on == "failed":
            return ~right
        group, count = group_index(step.batch)
        own = torch.tensor([t.component == self.component for t in step.batch.trajectories], dtype=torch.bool)
        return segment_sum((right & own).long(), group, count)[group] == 0


def turn_ends(step: Step) -> Tensor:
    """The decisions bool[N] that ended a turn: the last sampled one of each, but not where a limit cut it."""
    found = torch.zeros_like(step.batch.sampled)
    start = 0
    for one in step.batch.trajectories:
        turn, sampled = one.decisions.turn, ~one.decisions.forced
        last = {int(turn[place]): place for place in sampled.nonzero()[0].tolist()}
        if one.truncated and one.ending in ("overlong_turn", "overlong_total") and len(turn):
            last.pop(int(turn[-1]), None)
        found[[start + place for place in last.values()]] = True
        start += len(turn)
    return found
