"""Opponents: an answer to every prompt by a mixture of the policy and its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from triune.algo.options import COLLECTORS, CollectOptions
from triune.core.sample import Sample
from triune.rollout.generator import Demand


@COLLECTORS.register("mixture")
class MixtureOpponents(CollectOptions):
    """One more rollout per prompt from the geometric mixture pi^(1 - mix) ref^mix, token by token (Nash-MD, Munos et al. 2023,
    section 7; as TRL draws it). It is judged like the others, and in no loss and no group's statistics.

    Every token of it costs a pass of both policies; the reference needs a cache of its own while it is drawn.
    """

    kind: Literal["mixture"] = "mixture"
    mix: float = Field(default=0.5, ge=0, le=1, description="share of the reference, in logits")
    reference: str = Field(default="reference", description="view of the policy that it is mixed with")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.reference})

    def demand(self, demand: Demand, samples: Sequence[Sample]) -> Demand:
        return replace(demand, mixture=(self.reference, self.mix))
