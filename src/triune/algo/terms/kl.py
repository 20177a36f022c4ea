"""A divergence from another policy as a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from triune.algo.kl import divergence, estimate
from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.ratio import log_ratio, ratio
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import by_source
from triune.core.errors import ParityError

NO_GRADIENT = (
    "k1 in the loss has no gradient in expectation (the mean of grad log p is 0): its value moves and the policy does "
    "not. Use k2 (reverse KL), or put k1 into the reward (`shape: {kl: {kind: kl_in_reward}}`)"
)


@TERMS.register("kl")
class KL(TermOptions):
    """A divergence of the policy from a view, per decision; d = logp - logp_view.

    What the expected gradient really is, for decisions that the policy drew itself (verified on an exact categorical):

    - `k2` d^2 / 2: grad KL(policy, view), the reverse divergence; so is `k3+`, which only reports k3's value.
    - `k3` exp(-d) - 1 + d: grad KL(view, policy), the *forward* one, though its value estimates the reverse.
    - `k3_corrected` rho * k3, with gradient through rho = p / p_old: grad KL(policy, view), also where the policy has
      moved from the one that drew (TRL's `use_bias_correction_kl`, DeepSeek-V3.2). Needs `old`.
    - `abs`: grad of sum |p - p_view| over the choices, twice the total variation.
    - `full`: KL(policy, view) over all choices, exact; `full_forward`: KL(view, policy), exact. Need `distribution` of
      the policy and of the view: a table of all choices for every decision. An error where one excludes what the other may
      choose (top-p and top-k cut differently): there it is infinite.
    - `k1` is refused: its expected gradient is 0.

    `view: behavior` takes the engine's recorded log-probs (no pass). Costs one pass per step for any other view; the
    full forms one per mini-batch.
    """

    scaled: ClassVar[bool] = False

    kind: Literal["kl"] = "kl"
    form: Literal["k1", "abs", "k2", "k3", "k3+", "k3_corrected", "full", "full_forward"] = Field(
        description="estimate, see above"
    )
    view: str = Field(default="reference", description="what the policy is held to: a view, or `behavior`")
    log_bound: float | None = Field(
        default=20.0,
        gt=0,
        description="the log-ratio that k3 forms exponentiate is clamped to this on both sides (verl: 20)",
    )
    value_bound: float | None = Field(
        default=None, gt=0, description="the value is clamped to this, and has no gradient beyond (verl: 10)"
    )

    @model_validator(mode="after")
    def _has_a_gradient(self) -> Self:
        if self.form == "k1":
            raise ValueError(NO_GRADIENT)
        if self.form in ("full", "full_forward") and self.view == "behavior":
            raise ValueError(f"an engine records no distribution: form {self.form} needs another view")
        return self

    @property
    def needs(self) -> frozenset[str]:
        if self.form in ("full", "full_forward"):
            return frozenset({"distribution", f"{self.view}.distribution"})
        views = {self.view} - {"behavior"}
        return frozenset(views | {"old"} if self.form == "k3_corrected" else views)

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        value = self.values(batch, batch.live, current, views)
        loss = (torch.where(batch.live, value, 0.0) * batch.weight).sum()
        prefix = "" if self.component == "policy" else f"{self.component}/"
        name = f"{prefix}kl/{self.view}"
        return TermResult(loss, by_source(batch, batch.live, {name: value}))

    def values(
        self, batch: Batch, live: Tensor, current: Evaluated, views: Mapping[str, Evaluated]
    ) -> Tensor:
        """The divergence per decision, [N]; 0 outside `live`. Raises ParityError where it is infinite."""
        if self.form == "full" or self.form == "full_forward":
            mine, other = _table(current, live), _table(views[self.view], live)
            value = divergence(mine, other) if self.form == "full" else divergence(other, mine)
            if not bool(value.detach().isfinite().all()):
                row = int(batch.trajectory[~value.detach().isfinite()][0])
                raise ParityError(
                    f"rollout {batch.trajectories[row].id!r}: the policy and the view {self.view!r} do not allow the same "
                    f"choices, so their divergence is infinite; sample without top-p and top-k, or take form k2 or k3"
                )
            return value if self.value_bound is None else value.clamp(max=self.value_bound)
        anchor = batch.logp_behavior if self.view == "behavior" else views[self.view].logp
        logs = log_ratio(live, current.logp, anchor)
        form = "k3" if self.form == "k3_corrected" else self.form
        value = estimate(form, logs, self.log_bound, self.value_bound)
        if self.form != "k3_corrected":
            return value
        moved = log_ratio(live, current.logp, views["old"].logp)
        return ratio(batch, live, moved, "token") * value


def _table(seen: Evaluated, live: Tensor) -> Tensor:
    """Log-probs of all choices [N, choices]; those of a decision outside the loss may be anything, and become 0."""
    return torch.where(live[:, None], seen.extras["distribution"], 0.0)
