"""Tapered Off-Policy REINFORCE: full weight on good rollouts, a truncated importance weight on bad ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.ratio import Level
from triune.algo.terms.policy import Compared, PolicyTerm


@TERMS.register("topr")
class TOPR(PolicyTerm):
    """-A sg[clip(r, low, high)] logp, with limits by the sign of A (arXiv 2503.14286, eqs. 7-8).

    W = clip(r, positive_low, positive_high) where A > 0, clip(r, negative_low, negative_high) elsewhere. The canonical
    limits are 1, 1 and 0, 1: a good rollout counts fully, a bad one less and less as it becomes unlikely. The ratio is
    of the whole rollout against the policy that drew it, the advantage a raw reward of +-1 and no KL; newer verl uses
    `sequence_geomean`, Trinity-RFT `token`.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"ratio": "token", "against": "old"},
        {"ratio": "sequence_geomean", "positive_low": 0.5, "positive_high": 1.5, "negative_low": 0.1},
    )

    kind: Literal["topr"] = "topr"
    against: Literal["old", "behavior"] = Field(default="behavior", description="earlier policy of the ratio")
    ratio: Level = Field(default="sequence_product", description="what one ratio is of")
    positive_low: float = Field(default=1.0, ge=0, description="a+: least weight of a decision with A > 0")
    positive_high: float = Field(default=1.0, ge=0, description="b+: largest weight of a decision with A > 0")
    negative_low: float = Field(default=0.0, ge=0, description="a-: least weight of any other decision")
    negative_high: float = Field(default=1.0, ge=0, description="b-: largest weight of any other decision")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.positive_low > self.positive_high or self.negative_low > self.negative_high:
            raise ValueError("a lower limit of topr is above its upper limit")
        return self

    def losses(self, seen: Compared) -> Tensor:
        return -seen.advantage * self.gradient_weight(seen) * seen.logp

    def gradient_weight(self, seen: Compared) -> Tensor:
        ratio = seen.ratio(self.ratio).detach()
        return torch.where(
            seen.advantage > 0,
            ratio.clamp(self.positive_low, self.positive_high),
            ratio.clamp(self.negative_low, self.negative_high),
        )

    def metrics(self, seen: Compared) -> dict[str, Tensor]:
        return {"policy_weight": self.gradient_weight(seen)}
