"""Demonstrations as off-policy reinforcement learning: worth what their advantage says, shaped so that rare tokens count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import by_source


@TERMS.register("luffy")
class Luffy(TermOptions):
    """-A f(p) of every placed decision, f(p) = p / (p + gamma) (LUFFY, arXiv 2504.14945: policy shaping).

    p = exp(log p) is the importance weight against a demonstrator that was certain. The gradient with respect to log p
    is -A gamma p / (p + gamma)^2, largest where p = gamma; with `gamma` null f(p) = p and it is -A p. A is the advantage
    that the estimator gave to the placed row (`joint`: from statistics that it is part of), or with `credit: reward` the
    row's reward, as for a group of one (0 where nobody could judge it).
    """

    tokens: ClassVar[Literal["sampled", "placed", "all"]] = "placed"

    kind: Literal["luffy"] = "luffy"
    component: str = Field(default="expert", description="trajectories that it trains, by their `component`")
    gamma: float | None = Field(
        default=0.1, gt=0, description="probability at which a token pulls most; null: no shaping"
    )
    credit: Literal["advantage", "reward"] = Field(
        default="advantage", description="what the demonstration is worth"
    )

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        live = batch.live
        p = torch.where(live, current.logp, 0.0).exp()
        shaped = p if self.gamma is None else p / (p + self.gamma)
        reward = batch.reward.nan_to_num(0.0).to(p)
        worth = batch.advantage if self.credit == "advantage" else reward[batch.trajectory]
        advantage = torch.where(live, worth, 0.0)
        return TermResult(
            loss=-(advantage * shaped * batch.weight).sum(),
            metrics=by_source(
                batch, live, {"luffy/p": p, "luffy/shaped": shaped, "luffy/advantage": advantage}
            ),
        )
