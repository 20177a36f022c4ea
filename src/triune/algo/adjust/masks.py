"""Decisions that lose their gradient by what they are: too certain, or too much in step with their advantage."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.step import Step
from triune.algo.weights import by_source
from triune.monitor.metric import Metric


def silence(step: Step, gone: Tensor, leave_denominators: bool) -> None:
    """Decisions `gone` bool[N] lose their gradient; they stay in the denominators unless told to leave."""
    if leave_denominators:
        step.mask(gone)
    else:
        step.weigh(torch.where(gone, 0.0, 1.0))


@ADJUSTMENTS.register("top_entropy")
class TopEntropy(AdjustOptions):
    """Trains only the decisions of highest entropy (arXiv 2506.01939): those at or above the (1 - share) quantile.

    The quantile is over all decisions of the step that are in the loss, linearly interpolated, of the policy before
    the step (TRL's `top_entropy_quantile` takes the current policy's, per micro-batch). As in TRL the others
    still count in the denominators, unless `leave_denominators`. Costs the pass of `old` even where the engine is exact.
    """

    kind: Literal["top_entropy"] = "top_entropy"
    share: float = Field(gt=0, le=1, description="share of the decisions that is trained (the paper: 0.2)")
    leave_denominators: bool = Field(default=False, description="the others leave the counts as well")
    component: str = Field(default="policy", description="rollouts that it is about, by their `component`")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old.entropy"})

    def __call__(self, step: Step) -> list[Metric]:
        entropy = step.views["old"].entropy
        assert entropy is not None
        live = step.sampled_in_loss(self.component)
        if not bool(live.any()):
            return []
        bar = float(np.quantile(entropy[live].double().numpy(), 1 - self.share))
        silence(step, live & (entropy.double() < bar), self.leave_denominators)
        return by_source(step.batch, live, {"top_entropy/kept": entropy.double() >= bar})


@ADJUSTMENTS.register("clip_cov")
class ClipCov(AdjustOptions):
    """Clip-Cov (arXiv 2505.22617): a few decisions of high covariance between advantage and log-prob lose their gradient.

    Covariance of a decision: (A - mean A)(logp - mean logp), over the decisions of the step that are in the loss, under
    the policy before the step. Of those within (low, high), `share` of all decisions (at least one) are drawn; the
    draw is a function of the step. verl takes the current policy's per micro-batch.
    """

    kind: Literal["clip_cov"] = "clip_cov"
    share: float = Field(default=0.0002, gt=0, le=1, description="share of all decisions that is silenced")
    low: float = Field(default=1.0, description="least covariance of one that may be")
    high: float = Field(default=5.0, description="largest covariance of one that may be")
    component: str = Field(default="policy", description="rollouts that it is about, by their `component`")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old"})

    def __call__(self, step: Step) -> list[Metric]:
        assert step.credit is not None
        live = step.sampled_in_loss(self.component)
        if not bool(live.any()):
            return []
        found = covariance(step.credit.advantage, step.views["old"].logp, live)
        # In an order that no micro-batch decides, so that the draw depends on the step alone.
        rows = [one.id for one in step.batch.trajectories]
        inside = torch.nonzero(live & (found > self.low) & (found < self.high))[:, 0].tolist()
        able = torch.tensor(
            sorted(inside, key=lambda n: (rows[int(step.batch.trajectory[n])], n)), dtype=torch.long
        )
        number = min(len(able), max(1, int(self.share * int(live.sum()))))
        generator = torch.Generator().manual_seed(step.progress.step)
        gone = torch.zeros_like(live)
        gone[able[torch.randperm(len(able), generator=generator)[:number]]] = True
        silence(step, gone, leave_denominators=False)
        return by_source(step.batch, live, {"clip_cov/covariance": found, "clip_cov/silenced": gone})


def covariance(advantage: Tensor, logp: Tensor, live: Tensor) -> Tensor:
    """(A - mean A)(logp - mean logp), means over `live` bool[N]; 0 elsewhere; f64[N]."""
    advantage = torch.where(live, advantage, 0.0).double()
    logp = torch.where(live, logp, 0.0).double()
    count = live.sum().clamp(min=1)
    product = (advantage - advantage.sum() / count) * (logp - logp.sum() / count)
    return torch.where(live, product, 0.0)
