"""SASR: each step imitates or reinforces, by a coin that the size of the imitation gradient weighs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from triune.algo.adjust.gate import Mode, apply, groups, shares
from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.step import Step
from triune.monitor.metric import Metric, scalar


@dataclass(slots=True)
class GradNormProbe:
    """How large the gradient of the demonstrations is: at the end of the warm-up, and when it was last taken."""

    warm: float | None = None
    last: float | None = None

    def see(self, norm: float, *, warming: bool) -> None:
        """Takes over a norm; one that is not finite is not one."""
        if math.isfinite(norm):
            self.last = norm
            if warming:
                self.warm = norm

    def probability(self, gamma: float) -> float:
        """last / (last + gamma warm); 1 before anything was seen, 0 when both have vanished."""
        if self.last is None or self.warm is None:
            return 1.0
        total = self.last + gamma * self.warm
        return self.last / total if total > 0 else 0.0


@ADJUSTMENTS.register("gate_draw")
class GateDraw(AdjustOptions):
    """After `warmup` steps of imitation, a step imitates with probability p = g / (g + gamma g_warm), else it reinforces
    (SASR, arXiv 2505.13026).

    g is the norm of the gradient in the last step that imitated, before the optimiser clips it (and at most `clip`),
    g_warm that of the last step of the warm-up. In such a step every rollout of the policy leaves the loss (`gated`), so that the
    whole gradient is the demonstrations'; otherwise the demonstrations do. The draw is a function of `seed` and the
    step; the norms are saved in checkpoints. The formula is recalled from the paper, its gamma and warm-up are not known.
    """

    kind: Literal["gate_draw"] = "gate_draw"
    gamma: float = Field(gt=0, description="weight of the gradient norm at the end of the warm-up")
    warmup: int = Field(ge=1, description="steps at the start that only imitate")
    clip: float | None = Field(
        default=None, gt=0, description="largest norm that is taken for one; null: any"
    )
    seed: int = Field(default=0, ge=0, description="of the draws")
    policy: str = Field(default="policy", description="component of the policy's own rollouts")
    expert: str = Field(default="expert", description="component of the demonstrations")

    _probe: GradNormProbe = PrivateAttr(default_factory=GradNormProbe)
    _imitating: int | None = PrivateAttr(default=None)

    def probability(self, step: int) -> float:
        """That this step imitates."""
        return 1.0 if step <= self.warmup else self._probe.probability(self.gamma)

    def imitates(self, step: int) -> bool:
        """The draw of a step: the same whenever it is asked at the same norms."""
        return float(np.random.default_rng([self.seed, step]).random()) < self.probability(step)

    def __call__(self, step: Step) -> list[Metric]:
        number = step.progress.step
        p, imitates = self.probability(number), self.imitates(number)
        self._imitating = number if imitates else None
        mode = Mode(
            "sft" if imitates else "rl", {self.policy: float(not imitates), self.expert: float(imitates)}
        )
        fates: dict[str, list[str]] = defaultdict(list)
        for group in groups(step, self.policy, (self.expert,)):
            apply(step, group, mode, self.policy)
            fates[group.source].append(mode.name)
        return [scalar("gate/probability", p), *shares(fates, ["sft", "rl"])]

    def observe(self, metrics: Sequence[Metric]) -> None:
        if self._imitating is None:
            return
        for metric in metrics:
            if metric.name == "grad_norm" and metric.label("module") == "all":
                norm = metric.mean if self.clip is None else min(metric.mean, self.clip)
                self._probe.see(norm, warming=self._imitating <= self.warmup)

    def state(self) -> dict[str, Any]:
        return asdict(self._probe)

    def restore(self, state: Mapping[str, Any]) -> None:
        self._probe = GradNormProbe(**state)
