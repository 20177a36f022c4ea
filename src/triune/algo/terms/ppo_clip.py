"""The clipped surrogate of PPO with separate bounds (DAPO's clip-higher), at any ratio level, and the dual clip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.ratio import Level
from triune.algo.terms.policy import Compared, PolicyTerm


@TERMS.register("ppo_clip")
class PPOClip(PolicyTerm):
    """max(-A r, -A clip(r, 1 - low, 1 + high)) per decision (Schulman et al. 2017, eq. 7).

    W = r where (A > 0 and r <= 1 + high) or (A < 0 and 1 - low <= r <= dual), else 0; n r for the product of a row, which
    each of its n decisions holds whole. `ratio: sequence_geomean` is GSPO (arXiv 2507.18071; its bounds are of the order
    of 3e-4), `sequence_product` TRL's RLOO. With `dual` a negative advantage costs at most -A * dual (Ye et al. 2020;
    TRL's `delta` is the same cap). Log-ratios are clamped to +-20 (a mean to at most 10): there is no gradient beyond.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"dual": 3.0},
        {"clip_low": None, "clip_high": None},
        {"ratio": "sequence_geomean", "clip_low": 3e-4, "clip_high": 4e-4},
        {"ratio": "sequence_geomean_token", "dual": 1.5},
        {"ratio": "sequence_product", "clip_high": 0.2},
        {"against": "behavior", "max_drift": 0.2},
    )

    kind: Literal["ppo_clip"] = "ppo_clip"
    ratio: Level = Field(default="token", description="what one ratio is of: a decision, or its whole row")
    clip_low: float | None = Field(
        default=0.2, ge=0, le=1, description="a ratio below 1 - this no longer pushes down; null: any does"
    )
    clip_high: float | None = Field(
        default=0.28, ge=0, description="a ratio above 1 + this no longer pushes up; null: any does"
    )
    dual: float | None = Field(
        default=None, gt=1, description="largest ratio that a negative advantage counts at (TRL: delta)"
    )

    @property
    def _bounds(self) -> tuple[float, float]:
        """Least and largest ratio that still has a gradient."""
        low = 0.0 if self.clip_low is None else 1 - self.clip_low
        return low, math.inf if self.clip_high is None else 1 + self.clip_high

    def losses(self, seen: Compared) -> Tensor:
        ratio = seen.ratio(self.ratio)
        plain = -seen.advantage * ratio
        loss = torch.maximum(plain, -seen.advantage * ratio.clamp(*self._bounds))
        if self.dual is None:
            return loss
        over = (seen.advantage < 0) & (ratio > self.dual)
        return torch.where(over, -seen.advantage * self.dual, loss)

    def gradient_weight(self, seen: Compared) -> Tensor:
        ratio = seen.ratio(self.ratio).detach()
        low, high = self._bounds
        rises = (seen.advantage > 0) & (ratio <= high)
        falls = (seen.advantage < 0) & (ratio >= low)
        if self.dual is not None:
            falls &= ratio <= self.dual
        return torch.where(rises | falls, seen.slope(self.ratio), 0.0)

    def metrics(self, seen: Compared) -> dict[str, Tensor]:
        ratio = seen.ratio(self.ratio).detach()
        low, high = self._bounds
        found = {
            "clip_frac/low": (ratio < low) & (seen.advantage < 0),
            "clip_frac/high": (ratio > high) & (seen.advantage > 0),
        }
        if self.dual is not None:
            found["clip_frac/dual"] = (ratio > self.dual) & (seen.advantage < 0)
        if self.ratio != "token":
            found["sequence_ratio"] = ratio
        return found
