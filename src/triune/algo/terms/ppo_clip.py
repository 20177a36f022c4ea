"""The clipped surrogate of PPO with separate bounds (DAPO's clip-higher), and optionally the dual clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import by_source

# exp() of a log-ratio beyond this overflows or means nothing; the unclamped maximum is reported.
LOG_RATIO_BOUND = 20.0


@TERMS.register("ppo_clip")
class PPOClip(TermOptions):
    """max(-A r, -A clip(r, 1 - low, 1 + high)) per decision, r = exp(logp - logp_old) (Schulman et al. 2017, eq. 7).

    With `dual`, a negative advantage costs at most -A * dual (Ye et al. 2020). The log-ratio is clamped to
    +-20, beyond which there is no gradient; `log_ratio_abs` reports it unclamped.
    """

    kind: Literal["ppo_clip"] = "ppo_clip"
    clip_low: float = Field(
        default=0.2, ge=0, lt=1, description="a ratio below 1 - this no longer pushes down"
    )
    clip_high: float = Field(default=0.28, ge=0, description="a ratio above 1 + this no longer pushes up")
    dual: float | None = Field(
        default=None, gt=1, description="largest ratio that a negative advantage counts at"
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old"})

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        # Decisions outside the loss may hold anything (a forced token may be impossible): replace before subtracting.
        live = batch.live
        log_ratio = torch.where(live, current.logp - views["old"].logp, 0.0)
        ratio = log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
        plain = -batch.advantage * ratio
        clipped = -batch.advantage * ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss = torch.maximum(plain, clipped)
        if self.dual is not None:
            capped = torch.minimum(loss, -batch.advantage * self.dual)
            loss = torch.where(batch.advantage < 0, capped, loss)
        return TermResult(
            loss=(loss * batch.weight).sum(),
            metrics=by_source(
                batch,
                live,
                {
                    "clip_frac/low": (ratio < 1 - self.clip_low) & (batch.advantage < 0),
                    "clip_frac/high": (ratio > 1 + self.clip_high) & (batch.advantage > 0),
                    "ratio": ratio,
                    "approx_kl": log_ratio.exp() - 1 - log_ratio,
                    "log_ratio_abs": log_ratio.abs(),
                },
            ),
        )
