"""REINFORCE: the policy gradient without a ratio."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.terms.policy import Compared, PolicyTerm


@TERMS.register("reinforce")
class Reinforce(PolicyTerm):
    """-A logp per decision (Williams 1992). W = 1.

    Nothing corrects for data that another policy drew: with several mini-batches per step, or rollouts of older
    weights, use a term with a ratio or the adjustment `mismatch`. The earlier policy is only reported.
    """

    kind: Literal["reinforce"] = "reinforce"

    def losses(self, seen: Compared) -> Tensor:
        return -seen.advantage * seen.logp

    def gradient_weight(self, seen: Compared) -> Tensor:
        return torch.ones_like(seen.advantage)
