"""What learns, as the loop sees it, and what it reports of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from triune.algo.step import Step
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, Scored
from triune.monitor.rollouts import Advantage
from triune.rollout.generator import Demand, Episode
from triune.train.batching import per_decision, per_trajectory


@dataclass(slots=True)
class Report:
    """What an update did: the step's rollouts with their fate, their advantages (None: not trained on), and the learner's own
    metrics. `by_decision` holds the advantages f32[N] of rollouts whose decisions differ in them."""

    scored: list[Scored]
    advantages: list[float | None]
    metrics: list[Metric]
    by_decision: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of(cls, step: Step | None, others: Sequence[Scored], metrics: list[Metric]) -> Report:
        """Of a credited step (None: there was nothing to train on), and of what was drawn besides."""
        kept: list[Scored] = []
        advantages: list[float | None] = []
        by_decision: dict[int, NDArray[np.float32]] = {}
        if step is not None and (credit := step.credit) is not None:
            fate = zip(step.scored, credit.in_loss, credit.in_baseline, credit.reasons, strict=True)
            kept = [replace(o, in_loss=bool(a), in_baseline=bool(b), reason=why) for o, a, b, why in fate]
            advantages += per_trajectory(step.batch, credit.advantage)
            found = enumerate(per_decision(step.batch, credit.advantage))
            by_decision = {number: values for number, values in found if values is not None}
        return cls([*kept, *others], [*advantages, *[None] * len(others)], metrics, by_decision)

    @property
    def credit(self) -> list[Advantage | None]:
        """The advantage of each rollout, in detail where it has any."""
        return [self.by_decision.get(number, whole) for number, whole in enumerate(self.advantages)]

    @property
    def trained(self) -> list[Scored]:
        """The rollouts that were trained on, or would have been had nothing spoken against each of them."""
        return [one for one, a in zip(self.scored, self.advantages, strict=True) if a is not None]


class Update(Protocol):
    """`source` yields the step's judged rollouts when called, each time those of fresh prompts; an update calls it as
    often as it needs. `admit` says which of these prompts are worth it, `demand` and `place` what else is to be generated
    and judged for them."""

    def admit(self, samples: Sequence[Sample], progress: Progress) -> list[Sample]: ...

    def demand(self, demand: Demand, samples: Sequence[Sample]) -> Demand: ...

    def place(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]: ...

    def step(self, source: Callable[[], Sequence[Scored]], recipe: Recipe, progress: Progress) -> Report: ...

    def state(self) -> dict[str, object]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...
