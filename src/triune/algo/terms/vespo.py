"""VESPO: a smooth weight of the whole rollout's ratio in the place of a clip."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.ratio import LOG_BOUND, row_sum
from triune.algo.terms.policy import Compared, PolicyTerm

SMALLEST = math.log(1e-8)


@TERMS.register("vespo")
class VESPO(PolicyTerm):
    """-A sg[e^lam w^k e^(-lam w)] logp, w the product of the row's ratios (TRL's `vespo`).

    W = e^lam w^k e^(-lam w): 1 at w = 1, its peak is at w = k / lam, and it vanishes to both sides. Token log-ratios
    are clamped to +-20 and their sum to [log 1e-8, 20].
    """

    kind: Literal["vespo"] = "vespo"
    k_positive: float = Field(default=2.0, ge=0, description="k where the advantage is not negative")
    lam_positive: float = Field(default=3.0, gt=0, description="lam where the advantage is not negative")
    k_negative: float = Field(default=3.0, ge=0, description="k where the advantage is negative")
    lam_negative: float = Field(default=2.0, gt=0, description="lam where the advantage is negative")

    def losses(self, seen: Compared) -> Tensor:
        return -seen.advantage * self.gradient_weight(seen) * seen.logp

    def gradient_weight(self, seen: Compared) -> Tensor:
        logs = row_sum(seen.batch, seen.logs.detach().clamp(-LOG_BOUND, LOG_BOUND)).clamp(SMALLEST, LOG_BOUND)
        rises = seen.advantage >= 0
        k = torch.where(rises, self.k_positive, torch.full_like(logs, self.k_negative))
        lam = torch.where(rises, self.lam_positive, torch.full_like(logs, self.lam_negative))
        return (lam + k * logs - lam * logs.exp()).exp()

    def metrics(self, seen: Compared) -> dict[str, Tensor]:
        return {"policy_weight": self.gradient_weight(seen)}
