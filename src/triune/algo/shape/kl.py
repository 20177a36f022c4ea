"""KL to a reference policy as a part of the reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, PrivateAttr, model_validator

from triune.algo.advantages.returns import episodes
from triune.algo.kl import estimate
from triune.algo.options import SHAPES, ShapeOptions
from triune.algo.shape.rewards import added
from triune.algo.step import Step
from triune.algo.types import Rewards, segment_sum
from triune.algo.weights import by_source
from triune.core.schedule import Progress, Schedule, resolve
from triune.core.trajectory import BASELINE
from triune.monitor.metric import Metric, scalar

Form = Literal["k1", "abs", "k2", "k3"]


@SHAPES.register("kl_in_reward")
class KLInReward(ShapeOptions):
    """r_t <- r_t - coef kl_t at every sampled token, kl_t between the old policy and a frozen one on the same tokens.

    Its gradient is that of the policy term through the advantage: with k1 and an estimator that sees rewards in time
    (`reinforce_pp`, `gae`, `remax`) it is grad KL(pi || ref), where k1 in the loss has the gradient 0. Estimators of
    whole-rollout rewards see the sum over the episode (TRL's RLOO). One forward pass of the reference policy.

    With a `target` the coefficient adapts: coef <- coef (1 + clip(kl / target - 1, -.2, .2) n / horizon) after every step,
    kl the mean over n rollouts of their mean per token (Ziegler et al. 2019, arXiv 1909.08593; verl). It is saved in
    checkpoints. Greedy baselines (`remax`) pay nothing.
    """

    kind: Literal["kl_in_reward"] = "kl_in_reward"
    form: Form = Field(default="k1", description="estimate of the divergence per token (`triune.algo.kl`)")
    coef: float | Schedule = Field(
        default=0.001, description="price of one nat, or a schedule of it; with a target where it starts"
    )
    target: float | None = Field(
        default=None, gt=0, description="KL per token that the coefficient is steered to"
    )
    horizon: int = Field(
        default=10000, ge=1, description="rollouts in which the coefficient may double, and more"
    )
    view: str = Field(default="reference", description="the frozen policy, by its name in algo.views")
    _adapted: dict[str, float] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _one_controller(self) -> KLInReward:
        if self.target is not None and not isinstance(self.coef, (int, float)):
            raise ValueError(
                "coef: a schedule and a target both move the coefficient; give a number with a target"
            )
        return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old", self.view})

    def coefficient(self, progress: Progress) -> float:
        """What one nat costs at this progress."""
        if not isinstance(self.coef, (int, float)):
            return resolve(self.coef, progress)
        return self._adapted.get("coef", self.coef)

    def __call__(self, step: Step) -> tuple[Rewards, list[Metric]]:
        batch, rewards, coef = step.batch, step.rewards, self.coefficient(step.progress)
        pays = ~rewards.total.isnan() & torch.tensor([t.component != BASELINE for t in batch.trajectories])
        live = batch.sampled & pays[batch.trajectory]
        old, other = (torch.where(live, step.views[name].logp.double(), 0.0) for name in ("old", self.view))
        bounds = (20.0, 10.0) if self.form == "k3" else (None, None)  # as in verl
        kl = estimate(self.form, old - other, *bounds)
        episode, count = episodes(batch)
        whole = segment_sum(kl, episode[batch.trajectory], count)[episode]
        paid = torch.where(pays, -coef * whole, 0.0)
        found = added(rewards, self.kind, paid, -coef * kl)
        rows = len(batch.trajectories)
        trained = segment_sum(live.double(), batch.trajectory, rows) > 0
        metrics = by_source(batch, live, {"reward/kl": kl})
        if bool(trained.any()):
            metrics.append(scalar("reward/kl_coef", coef))
            sizes = segment_sum(live.double(), batch.trajectory, rows).clamp(min=1)
            mean = (segment_sum(kl, batch.trajectory, rows) / sizes)[trained].mean()
            self._adapt(coef, float(mean), int(trained.sum()))
        return found, metrics

    def _adapt(self, coef: float, kl: float, rollouts: int) -> None:
        if self.target is not None:
            error = min(0.2, max(-0.2, kl / self.target - 1))
            self._adapted["coef"] = coef * (1 + error * rollouts / self.horizon)

    def state(self) -> dict[str, Any]:
        return dict(self._adapted)

    def restore(self, state: Mapping[str, Any]) -> None:
        self._adapted.clear()
        self._adapted.update(state)
