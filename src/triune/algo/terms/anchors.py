"""Likelihood terms beside a preference loss: what keeps a contrast from being won by making both answers unlikely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from triune.algo.objective import TermResult
from triune.algo.options import TERMS
from triune.algo.pairs import PairRule, seats
from triune.algo.share import Share
from triune.algo.terms.preference import AnswerTerm, Contrast, PairTerm, Side, paired
from triune.algo.types import Batch, Credit, Evaluated, Rewards


@TERMS.register("chosen_nll")
class ChosenNLL(PairTerm):
    """-beta log pi(y_w) per pair, no gradient to the loser.

    RPO (Liu et al. 2024, arXiv 2405.16436) adds it to DPO: `per: answer`, `coef` eta and DPO's own `beta`; or in its average
    form `per: token` and the coefficient alone. ORPO's likelihood term is `per: token`. No reference.
    """

    anchored: ClassVar[bool] = False
    beside: ClassVar[bool] = True

    kind: Literal["chosen_nll"] = "chosen_nll"
    beta: float = Field(default=1.0, gt=0, description="the preference term's beta in RPO's sum form, else 1")
    per: Literal["answer", "token"] = Field(
        default="answer", description="log-prob of the whole answer, or the mean over its tokens"
    )

    def implied(self, side: Side) -> Tensor:
        return self.beta * (side.logp if self.per == "answer" else side.mean)

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        return -self.implied(winner)


@TERMS.register("preference_anchor")
class PreferenceAnchor(Contrast):
    """-log sigmoid(beta a - anchor) - log sigmoid(-beta b - anchor): the winner's log-ratio a above 0, the loser's b below.

    An absolute anchor as in mDPO and OPA-DPO. The released OPA-DPO code has the sign of one *chosen* answer inverted, which
    pushes it down; here every winner is drawn up. One more forward pass (reference).
    """

    beside: ClassVar[bool] = True

    kind: Literal["preference_anchor"] = "preference_anchor"
    anchor: float = Field(default=0.0, description="how far above (below) 0 the implied reward is to be")
    holds: Literal["both", "chosen", "rejected"] = Field(default="both", description="answers that it holds")

    def contrast(self, winner: Side, loser: Side) -> Tensor:
        loss = torch.zeros_like(winner.logp)
        if self.holds != "rejected":
            loss = loss - logsigmoid(self.implied(winner) - self.anchor)
        if self.holds != "chosen":
            loss = loss - logsigmoid(-self.implied(loser) - self.anchor)
        return loss


@TERMS.register("vpo")
class ValueIncentive(AnswerTerm):
    """sign alpha beta E_cal[log pi(y) - log pi_ref(y)] (Cen et al. 2024, arXiv 2405.19320): optimism or pessimism.

    Online the sign is +: what is not tried gets mass, because the calibration answers lose it. Offline it is -. The
    mean is over the calibration answers: winners or losers of the pairs, or all rows of the term's component (rows that another
    policy drew, for example). Online it is unbounded below: fresh data and few steps per round. One more forward pass
    (reference).
    """

    kind: Literal["vpo"] = "vpo"
    alpha: float = Field(gt=0, description="strength; no source states it")
    beta: float = Field(default=0.1, gt=0, description="that of the preference term")
    sign: Literal["online", "offline"] = Field(description="online: +, optimism; offline: -, pessimism")
    calibration: Literal["chosen", "rejected", "rows"] = Field(description="answers that the mean is over")
    pairs: PairRule = Field(default=PairRule(), description="which rows of a group are compared")

    @property
    def grouped(self) -> bool:
        return self.calibration != "rows"

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        share = paired(self, self.pairs, batch, credit, rewards, rows)
        share.row_weight = torch.zeros(len(batch.trajectories))
        if self.calibration == "rows":
            answers = torch.unique(seats(batch)[batch.trajectory[share.live]])
            share.row_weight[answers] = 1 / max(1, len(answers))
        else:
            column = 0 if self.calibration == "chosen" else 1
            share.row_weight.index_add_(0, share.pairs[:, column], share.pair_weight)
        return share

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        ratio = self.ratio(batch, current, views)
        sign = 1.0 if self.sign == "online" else -1.0
        return TermResult(loss=sign * self.alpha * self.beta * (ratio * batch.row_weight).sum(), metrics=[])
