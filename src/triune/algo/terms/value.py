"""The value function's regression onto its returns, with optional clipping around the old values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.algo.weights import readouts
from triune.core.schedule import Schedule
from triune.monitor.metric import Metric


@TERMS.register("value")
class ValueLoss(TermOptions):
    """0.5 * max((v - R)^2, (clip(v, v_old +- clip) - R)^2), mean over read-outs (PPO's value loss)."""

    kind: Literal["value"] = "value"
    coef: float | Schedule = Field(default=0.5, description="weight of the regression in the loss")
    clip: float | None = Field(
        default=None, gt=0, description="largest change from the old value that may still pay"
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old", "value"})

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        return readouts(self, batch, credit, rows)

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        assert current.value is not None
        error = (current.value - batch.returns).square()
        if self.clip is not None:
            old = views["old"].value
            assert old is not None
            near = old + (current.value - old).clamp(-self.clip, self.clip)
            error = torch.maximum(error, (near - batch.returns).square())
        live = batch.value_weight > 0
        return TermResult(
            loss=0.5 * (torch.where(live, error, 0.0) * batch.value_weight).sum(),
            metrics=[Metric.of("value_error", error.detach()[live].tolist())] if bool(live.any()) else [],
        )
