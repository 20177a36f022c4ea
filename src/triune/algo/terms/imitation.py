"""Imitation of demonstrations: rows whose decisions were placed, trained beside RL in the same batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import by_source


@TERMS.register("imitation")
class Imitation(TermOptions):
    """-log p of every placed decision of its component (supervised fine-tuning, behaviour cloning)."""

    tokens: ClassVar[Literal["sampled", "placed", "all"]] = "placed"

    kind: Literal["imitation"] = "imitation"
    component: str = Field(
        default="imitation", description="trajectories that it trains, by their `component`"
    )

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        live = batch.live
        loss = torch.where(live, -current.logp, 0.0)
        return TermResult(
            loss=(loss * batch.weight).sum(), metrics=by_source(batch, live, {"imitation/nll": loss})
        )
