"""Soft Adaptive Policy Optimization: a smooth gate around ratio 1 in the place of a clip."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.terms.policy import Compared, PolicyTerm


@TERMS.register("sapo")
class SAPO(PolicyTerm):
    """-A (4 / tau) sigmoid(tau (rho - 1)) per decision (arXiv 2511.20347; verl, TRL).

    W = 4 s (1 - s) rho with s = sigmoid(tau (rho - 1)): 1 at rho = 1, and it fades to both sides.
    """

    kind: Literal["sapo"] = "sapo"
    tau_positive: float = Field(default=1.0, gt=0, description="steepness where the advantage is positive")
    tau_negative: float = Field(default=1.05, gt=0, description="steepness elsewhere")

    def losses(self, seen: Compared) -> Tensor:
        tau = self._tau(seen)
        return -seen.advantage * torch.sigmoid(tau * (seen.ratio("token") - 1)) * 4 / tau

    def gradient_weight(self, seen: Compared) -> Tensor:
        gate = torch.sigmoid(self._tau(seen) * (seen.ratio("token").detach() - 1))
        return 4 * gate * (1 - gate) * seen.slope("token")

    def _tau(self, seen: Compared) -> Tensor:
        tau = torch.full_like(seen.advantage, self.tau_negative)
        return torch.where(seen.advantage > 0, self.tau_positive, tau)
