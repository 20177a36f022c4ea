"""DPPO: a trust region on probabilities, not on ratios; prime-rl's default loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.terms.policy import Compared, PolicyTerm


@TERMS.register("dppo")
class DPPO(PolicyTerm):
    """-A rho, unless the probability p of the decision has left a band around that of the earlier policy, p'
    (arXiv 2602.04879; prime-rl's `default_loss_fn`, which takes the ratio against the engine).

    W = rho where kept, else 0. With `sides: advantage` a decision is dropped where p - p' > `high` and A > 0, or
    p - p' < -`low` and A <= 0. `sides: both` drops at either bound whatever the sign; prime-rl calls that, at 0.1,
    `ipo`, which has nothing to do with Identity Preference Optimisation. Its squared log-ratio is the term `kl` with
    `form: k2, view: behavior`.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"sides": "both", "low": 0.1, "high": 0.1})

    kind: Literal["dppo"] = "dppo"
    against: Literal["old", "behavior"] = Field(default="behavior", description="earlier policy of the ratio")
    low: float = Field(default=0.2, ge=0, description="largest fall of a probability that still pushes down")
    high: float = Field(default=0.2, ge=0, description="largest rise of a probability that still pushes up")
    sides: Literal["advantage", "both"] = Field(
        default="advantage", description="the bound on the side that the advantage pushes to, or both"
    )

    def losses(self, seen: Compared) -> Tensor:
        return torch.where(self._inside(seen), -seen.advantage * seen.ratio("token"), 0.0)

    def gradient_weight(self, seen: Compared) -> Tensor:
        return torch.where(self._inside(seen), seen.slope("token"), 0.0)

    def metrics(self, seen: Compared) -> dict[str, Tensor]:
        moved = self._moved(seen)
        return {
            "clip_frac/low": ~self._inside(seen) & (moved < -self.low),
            "clip_frac/high": ~self._inside(seen) & (moved > self.high),
        }

    def _moved(self, seen: Compared) -> Tensor:
        return seen.logp.detach().exp() - seen.earlier.exp()

    def _inside(self, seen: Compared) -> Tensor:
        moved = self._moved(seen)
        if self.sides == "both":
            return (moved <= self.high) & (moved >= -self.low)
        return torch.where(seen.advantage > 0, moved <= self.high, moved >= -self.low)
