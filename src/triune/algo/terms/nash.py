"""Nash-MD's policy loss: win probability against an opponent, and a pull to the reference as a score function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, Aggregate, TermOptions
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import by_source


@TERMS.register("nash_md")
class NashMD(TermOptions):
    """(beta sg[l - l^ref] - A) l per decision, A = P(y beats the opponent) - 1/2 (Munos et al. 2023; TRL's NashMDTrainer).

    The gradient is that of beta KL(pi, pi_ref) - P on the policy's own samples: k1 times the score function, not k1 in the loss,
    which has none. The advantage `versus` gives A. One more forward pass (reference).
    """

    kind: Literal["nash_md"] = "nash_md"
    beta: float = Field(ge=0, description="strength of the tie to the reference")
    reference: str = Field(default="reference", description="view of the policy that it is tied to")
    aggregate: Aggregate | None = Field(
        default="seq-mean-token-sum", description="how it is averaged; the source sums over an answer"
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.reference})

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        live = batch.live
        logp = torch.where(live, current.logp, 0.0)
        apart = torch.where(live, current.logp.detach() - views[self.reference].logp, 0.0)
        loss = (self.beta * apart - batch.advantage) * logp
        metrics = by_source(batch, live, {"nash/k1": apart, "nash/advantage": batch.advantage})
        return TermResult(loss=(loss * batch.weight).sum(), metrics=metrics)
