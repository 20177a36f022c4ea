"""Terms that compare what the policy says with a picture to what it says of the same tokens without it.

Which branch a term moves is decided by the view: a view without `gradient` is a constant, and only the branch with the
real picture learns; with `gradient` both do. What each term's gradient is on either branch stands in its docstring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.kl import divergence, estimate
from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.algo.weights import by_source
from triune.core.schedule import Schedule

LOG_RATIO_BOUND = 20.0
"""Log-ratios beyond it are cut off before they are exponentiated, as verl and PAPO's code do."""
DIVERGENCE_BOUND = 10.0
"""A decision's divergence counts up to here, as in PAPO's code; beyond it there is no gradient."""


@TERMS.register("perception_kl")
class PerceptionKL(TermOptions):
    """-D (or +D, `push: together`) between what the policy says with the real picture, p, and with the view's, q.

    With x = log q - log p of the token that was sampled (from p), cut off at +-20:

    - `k3`: D = exp(x) - x - 1, the estimate of KL(p || q) in PAPO's code (arXiv 2507.06448). dD/dlog p = 1 - exp(x):
      at most 1, and positive where the picture raised the token's probability. dD/dlog q = exp(x) - 1. In expectation
      the gradient on p's branch is that of KL(q || p), not of KL(p || q).
    - `k3_swapped`: D = exp(-x) + x - 1, the orientation of the paper's figure. It estimates KL(q || p) from samples of q,
      which these are not, and dD/dlog p = exp(-x) - 1 grows with the ratio without bound.
    - `full`: D = sum_v p_v (log p_v - log q_v), the paper's definition, with its own gradient on either branch. Needs the
      `distribution` of both: two tensors of decisions x vocabulary per micro-batch.

    D counts up to 10 per decision and has no gradient beyond; at p = q it has none either, so that the term never starts
    to look by itself: something else must, and it enlarges that. It needs the view's forward pass, one more per rollout;
    with a view that carries `gradient`, and for `full`, that pass is made in every micro-batch.
    """

    scaled: ClassVar[bool] = False

    kind: Literal["perception_kl"] = "perception_kl"
    coef: float | Schedule = Field(default=0.01, description="gamma: weight of the divergence in the loss")
    view: str = Field(default="masked", description="the view that it is taken to, by its name in algo.views")
    push: Literal["apart", "together"] = Field(
        default="apart", description="apart: D is to grow (necessity); together: it is to shrink (robustness)"
    )
    form: Literal["k3", "k3_swapped", "full"] = Field(default="k3", description="how D is computed")
    weighting: Literal["all", "correct_only", "weighted"] = Field(
        default="all",
        description="rollouts that count: all alike, right ones only, or wrong (and unjudged) ones less",
    )
    wrong_weight: float = Field(
        default=0.1, ge=0, description="of `weighted`: what D of a wrong rollout counts"
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of a rollout's decisions that count, largest D first (PAPO: .2)",
    )
    clip: float | None = Field(
        default=None, gt=0, description="largest D that still pays per decision (PAPO: .2)"
    )

    @property
    def needs(self) -> frozenset[str]:
        return (
            frozenset({"distribution", f"{self.view}.distribution"})
            if self.form == "full"
            else frozenset({self.view})
        )

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        """Denominators count every rollout, whatever D of it counts."""
        share = super().share(batch, credit, rewards, rows)
        if self.weighting != "all":
            if len(rewards.correct) != len(batch.trajectories):
                raise ValueError(f"weighting {self.weighting!r} has to know which rollouts are correct")
            wrong = 0.0 if self.weighting == "correct_only" else self.wrong_weight
            share.row_weight = torch.where(rewards.correct == 1, 1.0, wrong).to(share.weight)
        return share

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        live, seen = batch.live, views[self.view]
        mine, others = (torch.where(live, e.logp, 0.0) for e in (current, seen))
        x = others - mine
        raw = torch.where(live, self._divergence(x, current, seen), 0.0)
        value = raw.clamp(max=DIVERGENCE_BOUND)
        if self.weighting != "all":
            value = value * batch.row_weight[batch.trajectory]
        if self.top_p is not None:
            value = torch.where(_largest(value.detach(), live, batch, self.top_p), value, 0.0)
        if self.clip is not None:
            value = value.clamp(max=self.clip)
        sign = -1.0 if self.push == "apart" else 1.0
        values = {
            "perception/kl": raw.clamp(max=DIVERGENCE_BOUND),
            "perception/raised": (x < 0).float(),
            "perception/bounded": (raw > DIVERGENCE_BOUND).float(),
            "perception/surprise": -others,
        }
        if seen.entropy is not None:
            values["perception/entropy"] = seen.entropy
        return TermResult(
            loss=sign * (value * batch.weight).sum(), metrics=by_source(batch, live, values, view=self.view)
        )

    def _divergence(self, x: Tensor, current: Evaluated, seen: Evaluated) -> Tensor:
        """D of every decision [N] before its bound."""
        if self.form == "full":
            return divergence(current.extras["distribution"], seen.extras["distribution"])
        return estimate("k3", -x if self.form == "k3" else x, LOG_RATIO_BOUND)


@TERMS.register("branch_entropy")
class BranchEntropy(TermOptions):
    """+H of what the policy says of one branch: the real picture (`view: current`) or a view's. Pressing it down keeps a
    perception term from growing by noise (PAPO's double entropy, DVRP's lambda_ent).

    - `exact`: H = -sum_v p_v log p_v, dH/dlogits = -p (log p + H).
    - `sampled`: -log p of the token that was sampled, which PAPO's code calls entropy; dloss/dlog p = 1. Of the real
      branch its expected gradient on policy is 0, because the score function's is: what is left is noise, and an entropy
      is pressed only from the second mini-batch on. Of a view's branch it is the cross-entropy from the real one: it
      pulls the view towards the real branch, against the divergence.

    A view without `gradient` gives this term none: a coefficient on it would do nothing, and is refused when the run is
    set up. With `coef: 0` it is a metric, of any branch.
    """

    scaled: ClassVar[bool] = False

    kind: Literal["branch_entropy"] = "branch_entropy"
    coef: float | Schedule = Field(
        default=0.03, description="eta: weight of the entropy in the loss; 0: only watched"
    )
    view: str = Field(default="current", description="current, or a view by its name in algo.views")
    form: Literal["sampled", "exact"] = Field(
        default="exact", description="of what is said, or of what was sampled"
    )

    @property
    def needs(self) -> frozenset[str]:
        if self.view == "current":
            return frozenset({"entropy"} if self.form == "exact" else ())
        wanted = {self.view} if self.form == "sampled" else {f"{self.view}.entropy"}
        return frozenset(wanted if self.coef == 0 else wanted | {f"{self.view}.gradient"})

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        seen = current if self.view == "current" else views[self.view]
        value = -seen.logp if self.form == "sampled" else seen.entropy
        assert value is not None
        value = torch.where(batch.live, value, 0.0)
        name = "surprise" if self.form == "sampled" else "entropy"
        return TermResult(
            loss=(value * batch.weight).sum(),
            metrics=by_source(batch, batch.live, {f"branch/{name}": value}, view=self.view),
        )


def _largest(values: Tensor, live: Tensor, batch: Batch, share: float) -> Tensor:
    """The decisions bool[N] of every rollout whose value is in its largest `share`: at or above the quantile."""
    sizes = torch.bincount(batch.trajectory, minlength=len(batch.trajectories)).tolist()
    kept = [
        mine & (part >= part[mine].quantile(1 - share)) if bool(mine.any()) else mine
        for part, mine in zip(values.split(sizes), live.split(sizes), strict=True)
    ]
    return torch.cat(kept) if kept else live
