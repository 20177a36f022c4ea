"""Recorded answers beside the policy's own: each becomes a row of its sample's group, trained by its component's terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from triune.algo.options import COLLECTORS, CollectOptions
from triune.core.errors import DataError, RecipeError
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, Scored
from triune.rollout.generator import Demand, Episode
from triune.rollout.placed import place


class Placing(CollectOptions):
    """What collectors of recorded answers share. `answers` says which of a sample's are placed.

    A sample without any is counted per source (`demonstrations/missing`), or an error; that no sample of a batch has one
    is always an error. One forward and backward pass per placed row, and none for generating it.
    """

    component: str = Field(
        default="expert", description="rows that are made, for the terms of that component"
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="samples of a batch that are given theirs, in the order drawn; null: all",
    )
    only: bool = Field(
        default=False, description="the policy draws nothing: these rows are all that is trained"
    )
    missing: Literal["count", "error"] = Field(
        default="count", description="a sample that has no such answer is counted, or an error"
    )
    unusable: Literal["error", "missing"] = Field(
        default="error",
        description="an answer that cannot be placed (too long, a picture inside) is an error, or counts as missing",
    )

    def answers(self, sample: Sample, family: Any) -> list[str]:
        """The texts that are placed for a sample; none where it has none."""
        raise NotImplementedError

    def demand(self, demand: Demand, samples: Sequence[Sample]) -> Demand:
        return replace(demand, rollouts=0) if self.only else demand

    def place(self, samples: Sequence[Sample], demand: Demand, family: Any) -> list[list[Episode]]:
        found = [(sample, self.answers(sample, family)) for sample in samples]
        for sample, texts in found:
            if self.missing == "error" and not texts:
                raise DataError(f"sample {sample.id!r} has no answer that {self._named} could place")
        shown = [(sample, texts) for sample, texts in found if texts][: self.limit]
        rows = [
            [made]
            for sample, texts in shown
            for number, text in enumerate(texts)
            if (made := self._placed(sample, text, number, demand, family)) is not None
        ]
        if not rows:
            raise RecipeError(
                f"{self._named}: none of the {len(samples)} samples of this step has an answer to place (the first is "
                f"{samples[0].id!r}); give the rows an `expert`, or name its column in the adapter"
            )
        return rows

    def _placed(self, sample: Sample, text: str, number: int, demand: Demand, family: Any) -> Episode | None:
        try:
            return place(family, sample, text, demand, component=self.component, number=number)
        except DataError:
            if self.unusable == "error":
                raise
            return None

    def select(
        self, scored: Sequence[Scored], more: Any, progress: Progress
    ) -> tuple[list[Scored], list[Metric]]:
        placed = {one.sample.id for one in scored if one.trajectory.component == self.component}
        return list(scored), lacking(scored, placed, "demonstrations/missing", component=self.component)

    @property
    def _named(self) -> str:
        return f"collector {getattr(self, 'kind', '')} of component {self.component!r}"


@COLLECTORS.register("demonstrations")
class Demonstrations(Placing):
    """Places each sample's demonstration (`expert`), or the recorded answers that were `chosen`, in every step."""

    kind: Literal["demonstrations"] = "demonstrations"
    use: Literal["expert", "chosen"] = Field(
        default="expert", description="the demonstration, or every recorded answer labelled chosen"
    )

    def answers(self, sample: Sample, family: Any) -> list[str]:
        if self.use == "chosen":
            return [answer.text for answer in sample.responses if answer.label == "chosen"]
        return [] if sample.expert is None else [sample.expert]


def lacking(scored: Sequence[Scored], having: set[str], name: str, **labels: str) -> list[Metric]:
    """The share of each source's samples that are not among those `having` (ids) something."""
    samples = {one.sample.id: one.sample.source for one in scored}
    return [
        Metric.of(
            name, [id not in having for id, its in samples.items() if its == source], source=source, **labels
        )
        for source in dict.fromkeys(samples.values())
    ]
