"""Warm-up of a critic: the policy waits until values are worth something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.step import Step
from triune.core.errors import RecipeError
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, scalar


@ADJUSTMENTS.register("critic_warmup")
class CriticWarmup(AdjustOptions):
    """During the first `steps` steps nothing but the module `critic` learns (VL-DAC: 2 updates; verl's critic_warmup).

    Everything else is frozen, so that neither a policy term nor the value's own gradient, neither weight decay nor the
    optimiser's moments move it by a bit. Advantages, losses and metrics are as ever.
    """

    kind: Literal["critic_warmup"] = "critic_warmup"
    steps: int = Field(ge=1, description="steps at the beginning of the run in which the policy waits")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"value"})

    def agree(self, parts: Mapping[str, Any]) -> None:
        if not any("value" in part.needs for name, part in parts.items() if name.startswith("terms.")):
            raise RecipeError(
                "algo.adjust: critic_warmup lets nothing but the critic learn, and no term of algo.terms teaches it: add "
                "{kind: value}"
            )

    def alone(self, progress: Progress) -> frozenset[str]:
        return frozenset({"critic"}) if progress.step <= self.steps else frozenset()

    def __call__(self, step: Step) -> list[Metric]:
        return [scalar("critic_warmup", float(bool(self.alone(step.progress))))]
