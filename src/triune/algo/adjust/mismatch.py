"""The engine that drew the rollouts is not quite the learner: importance weights and rejections for the difference.

Three policies are kept apart: the engine's (`batch.logp_behavior`), the learner's before the step (the view `old`) and
the one being trained. What is here compares the first two, once per step and without gradient; the ratio inside a policy
term compares the last two. A term `against: behavior` does both at once, so its objective refuses these weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from triune.algo.kl import estimate
from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.ratio import LOG_BOUND, log_ratio, row_mean, row_sum
from triune.algo.step import Step
from triune.algo.types import segment_sum
from triune.algo.weights import by_source
from triune.core.errors import RecipeError
from triune.monitor.metric import Metric, scalar


class Compare(AdjustOptions):
    """What both adjustments compare: old against behaviour, over the sampled decisions of one component."""

    component: str = Field(default="policy", description="rollouts that it is about, by their `component`")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old"})

    def live(self, step: Step) -> Tensor:
        """Decisions of the component that were sampled and are in the loss so far, bool[N]."""
        return step.sampled_in_loss(self.component)

    def logs(self, step: Step, live: Tensor) -> Tensor:
        """log of (learner before the step / engine) where `live`, f64[N]; 0 elsewhere."""
        return log_ratio(live, step.views["old"].logp.double(), step.batch.logp_behavior.double())


@ADJUSTMENTS.register("mismatch")
class Mismatch(Compare):
    """Multiplies each decision's loss by w = p_old / p_behavior, bounded and without gradient.

    `level`: per decision, or of the row (product, or geometric mean). `mode: truncate` clamps w to [floor, cap] (TIS,
    arXiv 2508.14444; verl's `rollout_is`); `mode: mask` sets it to 0 outside that band (IcePop; TRL's `*_mask`). verl
    truncates the product of the row at 2; TRL's default masks it above 3; IcePop bands each decision. The log-ratio
    (of the decision, or of the row) is clamped to +-20. `normalize` divides by the mean of w over the step's
    decisions (rows at a sequence level) after that. What the mask zeroes stays in the denominators unless
    `leave_denominators`.
    """

    kind: Literal["mismatch"] = "mismatch"
    level: Literal["token", "sequence_product", "sequence_geomean"] = Field(
        description="what one weight is of: a decision, or its whole row"
    )
    mode: Literal["truncate", "mask"] = Field(description="outside [floor, cap]: clamped to it, or 0")
    cap: float | None = Field(gt=0, description="largest weight; null for none")
    floor: float | None = Field(ge=0, description="least weight; null for none")
    normalize: bool = Field(default=False, description="divide by the mean weight of the step")
    leave_denominators: bool = Field(
        default=False, description="masked decisions also leave the counts that losses are divided by"
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.cap is not None and self.floor is not None and self.floor > self.cap:
            raise ValueError(f"floor {self.floor} is above cap {self.cap}")
        if self.leave_denominators and self.mode != "mask":
            raise ValueError("leave_denominators is about masked decisions: it needs `mode: mask`")
        return self

    def agree(self, parts: Mapping[str, Any]) -> None:
        for name, term in parts.items():
            same = getattr(term, "component", None) == self.component
            if same and name.startswith("terms.") and getattr(term, "against", None) == "behavior":
                raise RecipeError(
                    f"algo.{name} takes its ratio against the engine, so the adjustment `mismatch` would correct for the "
                    "engine twice; take it `against: old`, or leave `mismatch` out"
                )

    def __call__(self, step: Step) -> list[Metric]:
        batch, live = step.batch, self.live(step)
        logs = self.logs(step, live)
        if self.level == "token":
            spread = logs
        elif self.level == "sequence_product":
            spread = row_sum(batch, logs)
        else:
            spread = row_mean(batch, live, logs)
        plain = spread.clamp(-LOG_BOUND, LOG_BOUND).exp()
        floor, cap = self.floor or 0.0, math.inf if self.cap is None else self.cap
        outside = (plain < floor) | (plain > cap)
        weight = plain.clamp(floor, cap) if self.mode == "truncate" else torch.where(outside, 0.0, plain)
        if self.normalize:
            weight = weight / self._mean(step, live, weight)
        weight = torch.where(live, weight, 1.0)
        step.weigh(weight.float())
        if self.leave_denominators:
            step.mask(live & outside)
        found = {
            "mismatch/kl": estimate("k3", -logs),
            "mismatch/log_ratio_abs": logs.abs(),
            "mismatch/ratio": plain,
            "mismatch/weight": weight,
            "mismatch/outside": outside,
        }
        return [*by_source(batch, live, found), *effective_size(step, live, weight)]

    def _mean(self, step: Step, live: Tensor, weight: Tensor) -> Tensor:
        """Mean weight of the live decisions, or of the rows that have any; 1 where that is 0."""
        share = live.double()
        if self.level != "token":
            share = share / row_sum(step.batch, share).clamp(min=1)
        mean = (weight * share).sum() / share.sum().clamp(min=1e-12)
        return torch.where(mean > 0, mean, torch.ones_like(mean))


@ADJUSTMENTS.register("reject")
class Reject(Compare):
    """Takes decisions or rows out of the loss, and out of its denominators, where engine and learner differ too much.

    The rules of verl's `rollout_rs`; several parts of this kind all have to agree to keep a decision. With
    r = p_old / p_behavior, `form: k1` keeps 1 / r in [low, high] (`low` defaults to 1 / `high`; so the bounds are on
    p_behavior / p_old, and only reciprocal ones are symmetric), `k2` keeps log(r)^2 / 2 <= high, `k3` keeps
    r - 1 - log r <= high. `level` takes the log (k1) or the value (k2, k3) per decision, or its sum, mean or maximum
    over the row. The statistics are over what was in the loss when this part is reached.
    """

    kind: Literal["reject"] = "reject"
    level: Literal["token", "seq_sum", "seq_mean", "seq_max"] = Field(description="what is judged as one")
    form: Literal["k1", "k2", "k3"] = Field(description="measure of the difference")
    high: float = Field(gt=0, description="upper bound: of the ratio for k1, of the value otherwise")
    low: float | None = Field(
        default=None, gt=0, description="lower bound of the ratio (k1 only); 1 / high by default"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.form == "k1":
            if self.level == "seq_max":
                raise ValueError("k1 has a sign: level seq_max is for k2 and k3")
            if self._low > self.high:
                raise ValueError(f"low {self._low} is above high {self.high}")
        elif self.low is not None:
            raise ValueError(f"{self.form} is never negative: it has no `low`")
        return self

    @property
    def _low(self) -> float:
        return 1 / self.high if self.low is None else self.low

    def __call__(self, step: Step) -> list[Metric]:
        batch, live = step.batch, self.live(step)
        logs = self.logs(step, live).clamp(-LOG_BOUND, LOG_BOUND)
        value = {"k1": -logs, "k2": 0.5 * logs.square(), "k3": estimate("k3", -logs)}[self.form]
        value = self._over_row(step, live, value)
        if self.form == "k1":
            gone = live & ((value < math.log(self._low)) | (value > math.log(self.high)))
        else:
            gone = live & (value > self.high)
        step.mask(gone)
        name = f"{self.level}_{self.form}"
        return by_source(batch, live, {f"reject/{name}": value, f"rejected/{name}": gone})

    def _over_row(self, step: Step, live: Tensor, value: Tensor) -> Tensor:
        if self.level == "token":
            return value
        if self.level == "seq_sum":
            return row_sum(step.batch, value)
        if self.level == "seq_mean":
            return row_mean(step.batch, live, value)
        most = torch.zeros(len(step.batch.trajectories), dtype=value.dtype)
        return most.scatter_reduce(0, step.batch.trajectory, value, "amax")[step.batch.trajectory]


def effective_size(step: Step, live: Tensor, weight: Tensor) -> list[Metric]:
    """Effective sample size per source, as a share: (sum w)^2 / (n sum w^2), 1 where all weights are equal."""
    batch = step.batch
    index = batch.source[live]
    count = len(batch.sources)
    w = weight[live].double()
    number = segment_sum(torch.ones_like(w), index, count)
    total, squares = segment_sum(w, index, count), segment_sum(w.square(), index, count)
    return [
        scalar("mismatch/ess", float(total[i] ** 2 / (number[i] * squares[i])), source=source)
        for i, source in enumerate(batch.sources)
        if float(squares[i]) > 0
    ]
