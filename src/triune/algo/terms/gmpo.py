"""Geometric-Mean Policy Optimization: clipped per decision in log space, then a geometric mean over the row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.ratio import GEOMEAN_BOUND, row_mean
from triune.algo.terms.policy import Compared, PolicyTerm


@TERMS.register("gmpo")
class GMPO(PolicyTerm):
    """-A exp(mean_t d'_t), d' the log-ratio cut at `clip_high` where A > 0 and at -`clip_low` where A < 0
    (arXiv 2507.20673, eq. 4; code in verl's `geo_mean`). Bounds are of the *log*-ratio.

    W = the clipped geometric mean where the decision's own log-ratio is not cut, else 0.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"clip_low": 0.1, "clip_high": 0.2})

    kind: Literal["gmpo"] = "gmpo"
    clip_low: float = Field(default=0.4, ge=0, description="a log-ratio below - this no longer pushes down")
    clip_high: float = Field(default=0.4, ge=0, description="a log-ratio above this no longer pushes up")

    def losses(self, seen: Compared) -> Tensor:
        cut = torch.where(
            seen.advantage > 0, seen.logs.clamp(max=self.clip_high), seen.logs.clamp(min=-self.clip_low)
        )
        mean = row_mean(seen.batch, seen.live, torch.where(seen.advantage == 0, seen.logs, cut))
        return -seen.advantage * mean.clamp(max=GEOMEAN_BOUND).exp()

    def gradient_weight(self, seen: Compared) -> Tensor:
        logs, advantage = seen.logs.detach(), seen.advantage
        free = ((advantage > 0) & (logs <= self.clip_high)) | ((advantage < 0) & (logs >= -self.clip_low))
        bound = torch.where(advantage > 0, self.clip_high, torch.full_like(logs, -self.clip_low))
        total = row_mean(seen.batch, seen.live, torch.where(free | (advantage == 0), logs, bound))
        return torch.where(free & (total <= GEOMEAN_BOUND), total.exp(), 0.0)

    def metrics(self, seen: Compared) -> dict[str, Tensor]:
        return {
            "clip_frac/low": (seen.logs < -self.clip_low) & (seen.advantage < 0),
            "clip_frac/high": (seen.logs > self.clip_high) & (seen.advantage > 0),
        }
