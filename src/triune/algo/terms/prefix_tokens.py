"""The placed start of a rollout, trained with what the hint was worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantages.prefix_rft import prefixes
from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.ratio import log_ratio, ratio
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.algo.weights import by_source, decisions


@TERMS.register("prefix_tokens")
class PrefixTerm(TermOptions):
    """Trains the decisions that were placed in front of what the policy went on with (Prefix-RFT, arXiv 2507.01679).

    Per decision, A being what the estimator `prefix_rft` gave it and r = p / p_old, p_old of the policy before the step:
    `ratio` -A r; `clip` PPO's max(-A r, -A clip(r, 1 - low, 1 + high)); `logp` -A log p; `luffy` -A p / (p + 0.1). Their
    gradients with respect to log p are -A W with W = r; r or 0; 1; 0.1 p / (p + 0.1)^2. Costs the pass of `old` even
    where the engine is exact: what nobody sampled has no recorded log-prob.
    """

    tokens: ClassVar[Literal["sampled", "placed", "all"]] = "placed"

    kind: Literal["prefix_tokens"] = "prefix_tokens"
    form: Literal["ratio", "clip", "logp", "luffy"] = Field(default="ratio", description="what multiplies -A")
    clip_low: float = Field(
        default=0.2, ge=0, lt=1, description="of `clip`: a ratio below 1 - this no longer pushes down"
    )
    clip_high: float = Field(
        default=0.28, ge=0, description="of `clip`: a ratio above 1 + this no longer pushes up"
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old.placed"} if self.form in ("ratio", "clip") else ())

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        others = ~prefixes(batch)
        masked = others if credit.masked is None else credit.masked | others
        return decisions(self, batch, replace(credit, masked=masked), rows)

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        live = batch.live
        advantage = torch.where(live, batch.advantage, 0.0)
        logp = torch.where(live, current.logp, 0.0)
        if self.form in ("ratio", "clip"):
            pull = ratio(batch, live, log_ratio(live, current.logp, views["old"].logp), "token")
        else:
            pull = logp if self.form == "logp" else logp.exp() / (logp.exp() + 0.1)
        loss = -advantage * pull
        if self.form == "clip":
            loss = torch.maximum(loss, -advantage * pull.clamp(1 - self.clip_low, 1 + self.clip_high))
        return TermResult(
            loss=(loss * batch.weight).sum(),
            metrics=by_source(
                batch,
                live,
                {"prefix/nll": -logp, "prefix/advantage": advantage, "prefix/trained": advantage != 0},
            ),
        )
