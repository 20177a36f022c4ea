"""An entropy bonus: the exact entropy of each decision's distribution, aggregated like the policy loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, Options
from triune.algo.types import Batch, Evaluated


@TERMS.register("entropy")
class EntropyBonus(Options):
    """-coef * H, H in nats."""

    kind: Literal["entropy"] = "entropy"
    coef: float = 0.0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy"})

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        assert current.entropy is not None
        assert batch.weight is not None
        return TermResult(loss=-(current.entropy * batch.weight).sum(), metrics=[])
