"""KL-Cov: a penalty on the few decisions whose log-prob is most in step with their advantage."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.adjust.masks import covariance
from triune.algo.options import TERMS
from triune.algo.share import Share
from triune.algo.terms.kl import KL
from triune.algo.types import Batch, Credit, Rewards


@TERMS.register("kl_cov")
class KLCov(KL):
    """abs(logp - logp_old) on the share `top` of decisions (at least one) with the largest covariance of advantage and
    log-prob (arXiv 2505.22617; verl's `kl_cov`, coefficient `ppo_kl_coef`). The others count in the denominator.

    The covariance (A - mean A)(logp - mean logp) is over the decisions of the mini-batch, with the log-probs that the
    engine recorded; verl takes the current policy's, per micro-batch.
    """

    kind: Literal["kl_cov"] = "kl_cov"  # type: ignore[assignment]
    form: Literal["abs", "k2", "k3", "k3+"] = Field(default="abs", description="estimate of the divergence")
    view: str = Field(default="old", description="what the policy is held to")
    top: float = Field(default=0.0002, gt=0, le=1, description="share of the decisions that is penalised")

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        share = super().share(batch, credit, rewards, rows)
        count = int(share.live.sum())
        if not count:
            return share
        found = covariance(credit.advantage, batch.logp_behavior, share.live)
        found = torch.where(share.live, found, -torch.inf)
        chosen = torch.zeros_like(share.live)
        chosen[found.topk(max(1, int(self.top * count))).indices] = True
        share.weight = torch.where(chosen, share.weight, 0.0)
        return share
