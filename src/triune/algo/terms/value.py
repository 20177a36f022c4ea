"""The value function's regression onto its returns, with optional clipping around the old values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.algo.weights import readouts
from triune.core.errors import RecipeError
from triune.core.schedule import Schedule
from triune.monitor.metric import Metric


@TERMS.register("value")
class ValueLoss(TermOptions):
    """0.5 * max((v - R)^2, (clip(v, v_old +- clip) - R)^2) of every read-out, averaged as decisions are (the value loss of
    PPO's first implementation, github openai/baselines; verl's and TRL's).

    d/dv is v - R, and 0 where the clipped square is the larger: there the value has come nearer to the return, by more
    than `clip`, since the step began.
    """

    kind: Literal["value"] = "value"
    coef: float | Schedule = Field(default=0.5, description="weight of the regression in the loss")
    clip: float | None = Field(
        default=None, gt=0, description="largest change from the old value that may still pay"
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old", "value"})

    def agree(self, parts: Mapping[str, Any]) -> None:
        if "value" not in parts["advantage"].needs:
            raise RecipeError(
                f"algo.advantage {parts['advantage'].kind!r} gives no returns for the term {self.kind!r} to regress values on: "
                "use gae, or leave the term out"
            )

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        return readouts(self, batch, credit, rows)

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        assert current.value is not None
        live = batch.value_weight > 0
        # A return outside the loss may be anything: replace before subtracting.
        value, target = (torch.where(live, x, 0.0) for x in (current.value, batch.returns))
        error = (value - target).square()
        measured = {"value": value, "value_error": error, "return": target}
        if self.clip is not None:
            old = views["old"].value
            assert old is not None
            start = torch.where(live, old, 0.0)
            near = start + (value - start).clamp(-self.clip, self.clip)
            clipped = (near - target).square()
            measured["value_clip_frac"] = (clipped > error).float()
            error = torch.maximum(error, clipped)
        return TermResult(
            loss=0.5 * (error * batch.value_weight).sum(), metrics=_by_source(batch, live, measured)
        )


def _by_source(batch: Batch, live: Tensor, values: Mapping[str, Tensor]) -> list[Metric]:
    """Each value over the live read-outs of every source; nothing where there are none."""
    found = []
    sources = [t.source for t in batch.trajectories]
    for source in batch.sources:
        mine = torch.tensor([name == source for name in sources])[batch.value_trajectory] & live
        if bool(mine.any()):
            found += [Metric.of(n, v.detach()[mine].tolist(), source=source) for n, v in values.items()]
    return found
