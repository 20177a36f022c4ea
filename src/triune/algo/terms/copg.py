"""Contrastive policy gradient: any two scored answers, whoever drew them, without an order between them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from triune.algo.options import TERMS
from triune.algo.pairs import PairRule
from triune.algo.terms.preference import Contrast, Side


@TERMS.register("copg")
class CoPG(Contrast):
    """-(dR D - beta/2 D^2), dR the difference of the rewards (Flet-Berliac et al. 2024, arXiv 2406.19185, eqs. 7 and 8).

    The gradient with respect to l_y is -(R_b(y) - R_b(y')), with R_b(y) = R(y) - beta (l_y - l_y^ref): the partner's reward is
    the baseline, and the only one that stays right off-policy. The optimum is pi_ref exp(R / beta) / Z whatever drew the answers.
    Rewards +-1/2 give the gradient of IPO with beta / 2, times beta / 2; two rows of the policy itself give twice RLOO's. Both
    orders of a pair are the same loss, so a tie is a comparison like any other. One more forward pass (reference).
    """

    kind: Literal["copg"] = "copg"
    beta: float = Field(gt=0, description="strength of the tie to the reference, in units of the reward")
    pairs: PairRule = Field(
        default=PairRule(choose="all", ties="both"), description="which rows of a group are compared"
    )

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        delta = winner.ratio - loser.ratio
        return -(winner.ahead(loser) * delta - self.beta / 2 * delta.square())
