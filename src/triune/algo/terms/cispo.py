"""CISPO (MiniMax-M1, arXiv 2506.13585): REINFORCE whose importance weight is clipped, so that no decision loses its
gradient. Two incompatible readings of the clip are in use; both are here under names of their own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.terms.policy import Compared, PolicyTerm


@TERMS.register("cispo_band")
class CISPOBand(PolicyTerm):
    """-A sg[clip(rho, 1 - low, 1 + high)] logp per decision (verl, EasyR1). W = that clipped ratio, never 0."""

    kind: Literal["cispo_band"] = "cispo_band"
    clip_low: float = Field(default=0.2, ge=0, lt=1, description="the weight is at least 1 - this")
    clip_high: float = Field(default=0.28, ge=0, description="the weight is at most 1 + this")

    def losses(self, seen: Compared) -> Tensor:
        return -seen.advantage * self.gradient_weight(seen) * seen.logp

    def gradient_weight(self, seen: Compared) -> Tensor:
        return seen.ratio("token").detach().clamp(1 - self.clip_low, 1 + self.clip_high)

    def metrics(self, seen: Compared) -> dict[str, Tensor]:
        ratio = seen.ratio("token").detach()
        return {"clip_frac/low": ratio < 1 - self.clip_low, "clip_frac/high": ratio > 1 + self.clip_high}


@TERMS.register("cispo_cap")
class CISPOCap(PolicyTerm):
    """-A sg[min(rho, cap)] logp per decision (TRL, whose `epsilon_high` is this absolute cap). W = min(rho, cap).

    A cap below 1 scales even an unmoved policy's gradient down; 5.0 is what TRL recommends.
    """

    kind: Literal["cispo_cap"] = "cispo_cap"
    cap: float = Field(default=5.0, gt=0, description="largest weight, absolute")

    def losses(self, seen: Compared) -> Tensor:
        return -seen.advantage * self.gradient_weight(seen) * seen.logp

    def gradient_weight(self, seen: Compared) -> Tensor:
        return seen.ratio("token").detach().clamp(max=self.cap)

    def metrics(self, seen: Compared) -> dict[str, Tensor]:
        return {"clip_frac/high": seen.ratio("token").detach() > self.cap}
