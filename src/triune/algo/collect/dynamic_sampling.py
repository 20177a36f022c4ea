"""Dynamic sampling: a step of groups that can teach something, filled up from fresh prompts within a bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from triune.algo.advantage import EQUAL
from triune.algo.collect.groups import Counts, apart, drawn, value
from triune.algo.options import COLLECTORS, CollectOptions
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, Scored, scalar


@COLLECTORS.register("dynamic_sampling")
class DynamicSampling(CollectOptions):
    """Keeps the groups whose `metric` differs between rollouts (DAPO, arXiv 2503.14476, section 3.2), or with `band` those
    whose mean of it lies strictly inside (EasyR1's online filtering: 0.01 < mean < 0.99), and draws again until there are
    as many as the first batch had prompts.

    After `max_batches` batches the step trains on what there is; with `pad` the oldest groups that were dropped fill the
    rest. If nothing is kept, the step changes no weight. Rollouts that could not be judged are not compared; a prompt with a
    single rollout is kept, as in verl. What is dropped stays among the step's rollouts and in all source metrics, with the
    name of this part as its reason: accuracy over the kept groups alone would only ever say "in between".
    """

    kind: Literal["dynamic_sampling"] = "dynamic_sampling"
    metric: str = Field(
        default="accuracy", description="accuracy (of the main check), reward, or a check's name"
    )
    band: tuple[float, float] | None = Field(
        default=None, description="keep by the group's mean, strictly between; null: by difference"
    )
    max_batches: int = Field(
        default=10,
        ge=1,
        description="batches of prompts that a step may draw (verl's DAPO scripts: 10; EasyR1: 20)",
    )
    pad: bool = Field(default=False, description="fill what is missing with groups that were dropped")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.band and not self.band[0] < self.band[1]:
            raise ValueError(f"band {self.band} holds no mean")
        return self

    def cause(self, group: Sequence[Scored]) -> str:
        """Why a group teaches nothing: abstained, all_right, all_wrong, equal, too_hard, too_easy; '' if it is kept."""
        asked = drawn(group)
        judged = [v for one in asked if (v := value(one, self.metric)) is not None]
        if not judged:
            return "abstained"
        if self.band:
            mean = sum(judged) / len(judged)
            return "too_hard" if mean <= self.band[0] else "too_easy" if mean >= self.band[1] else ""
        if len(asked) == 1:
            return ""
        if len(judged) == 1:
            return "abstained"
        low, high = min(judged), max(judged)
        if high - low > EQUAL * max(abs(high), abs(low)):
            return ""
        said = {one.verdict.correct for one in asked if value(one, self.metric) is not None}
        return {(True,): "all_right", (False,): "all_wrong"}.get(tuple(said), "equal")  # type: ignore[arg-type]

    def select(
        self, scored: Sequence[Scored], more: Callable[[], Sequence[Scored]], progress: Progress
    ) -> tuple[list[Scored], list[Metric]]:
        counts = Counts()
        kept: list[list[Scored]] = []
        dropped: list[list[Scored]] = []
        compared, others = apart(scored)
        batches, wanted = 1, len(compared)
        while True:
            for group in compared:
                source, cause = group[0].sample.source, self.cause(group)
                counts.add("dynamic_sampling/drawn", source)
                if not cause and len(kept) == wanted:
                    cause = "surplus"
                (dropped if cause else kept).append(group)
                if cause:
                    counts.add("dynamic_sampling/dropped", source, cause)
            if len(kept) >= wanted or batches == self.max_batches:
                break
            compared, rest = apart(more())
            others, batches = others + rest, batches + 1
        short = wanted - len(kept)
        for group in kept:
            counts.add("dynamic_sampling/kept", group[0].sample.source)
        padding = dropped[:short] if self.pad else []
        for group in padding:
            counts.add("dynamic_sampling/padded", group[0].sample.source)
        said = [
            scalar("dynamic_sampling/batches", batches),
            scalar("dynamic_sampling/groups_short", short),
            *counts.metrics(),
        ]
        return [one for group in [*kept, *padding, others] for one in group], said
