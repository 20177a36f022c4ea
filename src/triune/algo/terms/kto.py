"""Unpaired preference: each answer is good or bad by itself, against a reference point (KTO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.objective import TermResult
from triune.algo.options import TERMS
from triune.algo.pairs import comparable
from triune.algo.share import Share
from triune.algo.terms.preference import AnswerTerm
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.algo.weights import trained
from triune.core.errors import RecipeError
from triune.monitor.metric import Metric


@TERMS.register("kto")
class KTO(AnswerTerm):
    """w_d (1 - sigmoid(beta (a - z))) for a good answer, w_u (1 - sigmoid(beta (z - a))) for a bad one (Ethayarajh et al.
    2024, eq. 8), a its log-ratio to the reference and z >= 0 the reference point, without gradient.

    An answer is good where its reward is at least `threshold`. z is set by the adjustment `reference_point`, once per
    step, so that it depends on no micro-batch. A mean over judged answers. One more forward pass (reference).
    """

    kind: Literal["kto"] = "kto"
    beta: float = Field(default=0.1, gt=0, description="strength of the tie to the reference")
    desirable: float = Field(default=1.0, ge=0, description="weight w_d of a good answer")
    undesirable: float = Field(default=1.0, ge=0, description="weight w_u of a bad one")
    threshold: float = Field(default=0.5, description="reward from which an answer is good")

    @property
    def grouped(self) -> bool:
        return False

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        if credit.point is None:
            raise RecipeError(
                "term kto compares with a reference point that nothing sets; add to algo.adjust: "
                "{point: {kind: reference_point}}"
            )
        live = trained(self, batch, credit, rows)
        counted = comparable(batch, live, rewards.total, credit).float()
        weight = counted / counted.sum().clamp(min=1)
        return Share(live=live, weight=live.float(), row_weight=weight, row_value=credit.point)

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        ratio, weight = self.ratio(batch, current, views), batch.row_weight
        point = batch.row_value.to(ratio)
        good = (batch.reward >= self.threshold).to(ratio.device)
        gain = torch.sigmoid(self.beta * torch.where(good, ratio - point, point - ratio))
        loss = torch.where(good, self.desirable * (1 - gain), self.undesirable * (1 - gain))
        metrics = []
        for source in batch.sources:
            for name, side in (("desirable", good), ("undesirable", ~good)):
                rows = [
                    i for i, t in enumerate(batch.trajectories)
                    if t.source == source and float(weight[i]) > 0 and bool(side[i])
                ]  # fmt: skip
                if rows:
                    implied = (self.beta * ratio.detach()[rows]).tolist()
                    metrics.append(Metric.of(f"kto/{name}", implied, source=source))
        return TermResult(loss=(loss * weight).sum(), metrics=metrics)
