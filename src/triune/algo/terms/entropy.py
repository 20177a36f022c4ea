"""An entropy bonus: the exact entropy of each decision's distribution, aggregated like the policy loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.types import Batch, Evaluated
from triune.core.schedule import Schedule


@TERMS.register("entropy")
class EntropyBonus(TermOptions):
    """-coef * H, H in nats."""

    kind: Literal["entropy"] = "entropy"
    coef: float | Schedule = Field(default=0.0, description="weight of the bonus")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy"})

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        assert current.entropy is not None
        entropy = torch.where(batch.live, current.entropy, 0.0)
        return TermResult(loss=-(entropy * batch.weight).sum(), metrics=[])
