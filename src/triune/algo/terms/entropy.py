"""Entropy: a bonus with a coefficient or a schedule, and a controller that holds it near a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PrivateAttr, model_validator

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import by_source
from triune.core.schedule import Progress, Schedule
from triune.monitor.metric import Metric, merge


@TERMS.register("entropy")
class EntropyBonus(TermOptions):
    """-H per decision, H in nats, aggregated like the policy loss (verl) or as `aggregate` says (TRL: token-mean).

    `exact` takes H over all choices; its gradient is that of the mean entropy. `sampled` takes -logp of the decision that
    was drawn, which EasyR1 and PAPO log and use: its mean is H, but its expected gradient is 0 (E[grad logp] = 0), so that
    on policy it adds noise and no entropy.
    """

    scaled: ClassVar[bool] = False

    kind: Literal["entropy"] = "entropy"
    coef: float | Schedule = Field(default=0.0, description="weight of the bonus, or its schedule")
    form: Literal["exact", "sampled"] = Field(
        default="exact", description="over all choices, or -logp of the one drawn"
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy"} if self.form == "exact" else ())

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        if self.form == "exact":
            assert current.entropy is not None
            entropy = torch.where(batch.live, current.entropy, 0.0)
        else:
            entropy = -torch.where(batch.live, current.logp, 0.0)
        # The exact one is reported by the learner.
        found = {} if self.form == "exact" else {"entropy/sampled": entropy}
        return TermResult(-(entropy * batch.weight).sum(), by_source(batch, batch.live, found))


@TERMS.register("entropy_control")
class EntropyControl(EntropyBonus):
    """A bonus whose coefficient follows the entropy of the step before (TRL's `use_adaptive_entropy`; Skywork-OR1,
    arXiv 2505.22312): + `step` where it was at most `target`, - `step` where it was above, within the bounds; and
    applied only while it is at most `target`. It moves once per step, whatever the mini-batches, by the entropy of all
    sampled decisions. The coefficient and the last entropy are part of a checkpoint.
    """

    kind: Literal["entropy_control"] = "entropy_control"  # type: ignore[assignment]
    coef: float = Field(default=0.0, description="coefficient at the start")
    target: float = Field(default=0.2, ge=0, description="entropy below which the bonus acts, in nats")
    step: float = Field(default=0.005, gt=0, description="change of the coefficient per step")
    minimum: float = Field(default=0.0, ge=0, description="least coefficient")
    maximum: float = Field(default=1.0, ge=0, description="largest coefficient")

    _coef: float | None = PrivateAttr(default=None)
    _entropy: float | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.minimum <= self.coef <= self.maximum:
            raise ValueError(f"coef {self.coef} is outside [{self.minimum}, {self.maximum}]")
        return self

    def coefficient(self, progress: Progress) -> float:
        """0 before an entropy was seen, and while it is above the target."""
        if self._entropy is None or self._entropy > self.target:
            return 0.0
        return self.coef if self._coef is None else self._coef

    def observe(self, metrics: Sequence[Metric]) -> None:
        """Moves the coefficient by one step, after the optimiser's."""
        seen = merge((m for m in metrics if m.name == "entropy"), by=())
        if not seen or not seen[0].count:
            return
        self._entropy = seen[0].mean
        coef = self.coef if self._coef is None else self._coef
        change = self.step if self._entropy <= self.target else -self.step
        self._coef = min(self.maximum, max(self.minimum, coef + change))

    def state(self) -> dict[str, Any]:
        return {"coef": self._coef, "entropy": self._entropy}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._coef, self._entropy = state["coef"], state["entropy"]
