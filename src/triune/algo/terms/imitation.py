"""Imitation of demonstrations: rows whose decisions were placed, trained beside RL in the same batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.types import Batch, Evaluated, segment_mean
from triune.algo.weights import by_source


@TERMS.register("imitation")
class Imitation(TermOptions):
    """-w c log p of every placed decision of its component: supervised fine-tuning, with a weight that carries no gradient.

    The gradient with respect to log p is -w c. With p = exp(log p) of the token and H the mean entropy of its row, w is

    - `sft`: 1 (behaviour cloning);
    - `sft_is`: p (importance sampling against a demonstrator that was certain; also called DFT);
    - `chord_phi`: p (1 - p), which leaves out what the policy knows and what would shock it (CHORD);
    - `srft`: 0.5 exp(-H), small where the policy is undecided (SRFT; needs `entropy`);
    - `hellinger`: sqrt(p), `pearson`: min(1 / p, `most`): squared Hellinger and Pearson chi^2 instead of log-loss.

    c is 1, the decision's advantage (GRAO; a negative one pushes away), or the row's reward (SOPHIA). A placed row that
    nobody could judge counts with reward 0.
    """

    tokens: ClassVar[Literal["sampled", "placed", "all"]] = "placed"

    kind: Literal["imitation"] = "imitation"
    component: str = Field(default="expert", description="trajectories that it trains, by their `component`")
    weight: Literal["sft", "sft_is", "chord_phi", "srft", "hellinger", "pearson"] = Field(
        default="sft", description="how much a token counts, by its probability"
    )
    cutoff: float = Field(
        default=1.0, gt=0, le=1, description="a token of at least this probability is not pulled any further"
    )
    most: float | None = Field(default=None, gt=0, description="largest weight of `pearson`")
    credit: Literal["one", "advantage", "reward"] = Field(
        default="one", description="what the demonstration is worth"
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if (self.weight == "pearson") != (self.most is not None):
            raise ValueError("`most` bounds the weights of pearson, which needs it, and of nothing else")
        return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy"} if self.weight == "srft" else ())

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        live = batch.live
        logp = torch.where(live, current.logp, 0.0)
        weight = self._weight(batch, logp.detach(), current)
        if self.credit == "advantage":
            weight = weight * torch.where(live, batch.advantage, 0.0)
        elif self.credit == "reward":
            weight = weight * batch.reward.nan_to_num(0.0).to(logp)[batch.trajectory]
        loss = -logp.clamp(max=math.log(self.cutoff)) * weight
        return TermResult(
            loss=(loss * batch.weight).sum(),
            metrics=by_source(
                batch, live, {"imitation/nll": -logp, "imitation/p": logp.exp(), "imitation/weight": weight}
            ),
        )

    def _weight(self, batch: Batch, logp: Tensor, current: Evaluated) -> Tensor:
        p = logp.exp()
        match self.weight:
            case "sft_is":
                return p
            case "chord_phi":
                return p * (1 - p)
            case "hellinger":
                return p.sqrt()
            case "pearson":
                return (-logp).clamp(max=math.log(self.most or 1.0)).exp()
            case "srft":
                assert current.entropy is not None
                return 0.5 * (-row_mean(current.entropy.detach(), batch)).exp()
        return torch.ones_like(p)


def row_mean(values: Tensor, batch: Batch) -> Tensor:
    """The mean of `values` f32[N] over the live decisions of each row, at its decisions; 0 where a row has none."""
    live = torch.nonzero(batch.live)[:, 0]
    rows = batch.trajectory[live]
    return segment_mean(values[live], rows, len(batch.trajectories))[batch.trajectory]
