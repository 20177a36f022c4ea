"""SRFT's credit for the policy's own rollouts: the more undecided it is, the more its successes count."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.step import Step
from triune.algo.types import segment_mean
from triune.algo.weights import by_source
from triune.monitor.metric import Metric


@ADJUSTMENTS.register("srft")
class SelfRollouts(AdjustOptions):
    """The advantage of a rollout becomes `positive` exp(H) if it is correct and -`negative` if not (SRFT, as in the code of
    Unify-Post-Training), H being the mean entropy of its tokens before the step. Rollouts that nobody could call either
    are out of the loss. Costs the pass of `old` even where the engine is exact.
    """

    kind: Literal["srft"] = "srft"
    positive: float = Field(default=0.1, ge=0, description="weight of a correct rollout, times exp(entropy)")
    negative: float = Field(default=1.0, ge=0, description="weight of one that is not")
    component: str = Field(default="policy", description="rollouts that it is about, by their `component`")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old.entropy"})

    def __call__(self, step: Step) -> list[Metric]:
        credit, entropy = step.credit, step.views["old"].entropy
        assert credit is not None
        assert entropy is not None
        batch, correct = step.batch, step.rewards.correct
        unknown = torch.isnan(correct)
        for row, one in enumerate(batch.trajectories):
            if one.component == self.component and bool(unknown[row]) and bool(credit.in_loss[row]):
                credit.in_loss[row], credit.reasons[row] = False, "abstained"
        live = step.sampled_in_loss(self.component)
        spread = segment_mean(entropy[live].double(), batch.trajectory[live], len(batch.trajectories))
        worth = torch.where(correct == 1, self.positive * spread.exp(), -self.negative)
        credit.advantage = torch.where(live, worth[batch.trajectory].float(), credit.advantage)
        return by_source(batch, live, {"srft/weight": worth[batch.trajectory]})
