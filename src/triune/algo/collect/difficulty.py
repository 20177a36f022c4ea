"""Difficulty windows: prompts that are too easy or too hard are passed over before a rollout is spent on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from triune.algo.collect.groups import Counts, apart, unaided, value
from triune.algo.collect.replay import prompt_key
from triune.algo.options import COLLECTORS, CollectOptions
from triune.core.errors import DataError
from triune.core.sample import Sample
from triune.core.schedule import Progress, Schedule, resolve
from triune.monitor.metric import Metric, Scored, scalar
from triune.rollout.engine import derive_seed


class Window(CollectOptions):
    """What both windows share: prompts whose number lies in [low, high] are admitted, the others are skipped, counted by
    source and cause, and made up for from the next batches of the mixture, whose order stays what it is.

    Put it before other collectors: they then see the step as if it had been drawn so. After `max_batches` batches the
    step trains on what was admitted; if that is nothing, it changes no weight.
    """

    low: float | Schedule = Field(
        default=0.0, description="least number that is admitted, or a schedule of it"
    )
    high: float | Schedule = Field(default=1.0, description="largest, or a schedule of it")
    revisit: float = Field(
        default=0.0, ge=0, le=1, description="probability that a prompt outside is admitted all the same"
    )
    max_batches: int = Field(default=10, ge=1, description="batches of prompts that a step may draw")

    @model_validator(mode="after")
    def _opens(self) -> Self:
        if (
            isinstance(self.low, (int, float))
            and isinstance(self.high, (int, float))
            and self.low > self.high
        ):
            raise ValueError(f"no number is between low {self.low} and high {self.high}")
        return self

    _counts: Counts = PrivateAttr(default_factory=Counts)
    _wanted: int = PrivateAttr(0)

    def number(self, sample: Sample) -> float | None:
        """What is held against the window; None: nothing is known, admit it; NaN: skip it, it has none."""
        raise NotImplementedError

    def admit(self, samples: Sequence[Sample], progress: Progress) -> list[Sample]:
        self._wanted = max(self._wanted, len(samples))
        low, high = (
            v if isinstance(v, (int, float)) else resolve(v, progress) for v in (self.low, self.high)
        )
        kept = []
        for sample in samples:
            number = self.number(sample)
            cause = ""
            if number is not None and not low <= number <= high:
                cause = "below" if number < low else "above" if number > high else "missing"
            if cause and derive_seed("revisit", progress.step, sample.id) < self.revisit * (1 << 62):
                self._counts.add("difficulty/revisited", sample.source)
                cause = ""
            if cause:
                self._counts.add("difficulty/skipped", sample.source, cause)
            else:
                kept.append(sample)
        return kept

    def select(
        self, scored: Sequence[Scored], more: Callable[[], Sequence[Scored]], progress: Progress
    ) -> tuple[list[Scored], list[Metric]]:
        groups, others = apart(scored)
        batches = 1
        while len(groups) < self._wanted and batches < self.max_batches:
            late, rest = apart(more())
            groups, others, batches = groups + late, others + rest, batches + 1
        for group in groups[self._wanted :]:
            self._counts.add("difficulty/surplus", group[0].sample.source)
        kept = groups[: self._wanted]
        for group in groups:
            self.learn(group)
        said = [
            scalar("difficulty/batches", batches),
            scalar("difficulty/groups_short", self._wanted - len(kept)),
            *self._counts.metrics(),
        ]
        self._wanted = 0
        return [one for group in [*kept, others] for one in group], said

    def learn(self, group: Sequence[Scored]) -> None:
        """Takes note of what became of a prompt."""


@COLLECTORS.register("difficulty")
class Difficulty(Window):
    """An offline window: the number is a column of the data, `column` of the sample's `meta` (adapters keep it with
    `keep: [COLUMN]`), for example a stronger model's pass rate. Both bounds may move with the run: a curriculum."""

    kind: Literal["difficulty"] = "difficulty"
    column: str = Field(description="key of the samples' `meta` that holds the number")
    missing: Literal["error", "admit", "skip"] = Field(
        default="error", description="what becomes of a sample without the column"
    )

    def number(self, sample: Sample) -> float | None:
        found = sample.meta.get(self.column)
        if isinstance(found, (int, float)) and not isinstance(found, bool) and found == found:
            return float(found)
        if self.missing == "admit" and found is None:
            return None
        if self.missing == "skip" and found is None:
            return float("nan")
        raise DataError(
            f"sample {sample.id!r} of source {sample.source!r}: meta[{self.column!r}] is {found!r}, and algo.collect wants a "
            "number there; name another column, have the adapter `keep` it, or say what becomes of samples without "
            "(`missing: admit` or `skip`)"
        )


@COLLECTORS.register("pass_rate")
class PassRate(Window):
    """An online window: the number is the prompt's own running mean of `metric` over the steps that drew it,
    p <- p + rate (mean of the group - p). Unseen prompts are admitted. What was once too hard may not stay so: `revisit`
    admits a prompt outside the window now and then, by a number that is a pure function of (step, sample)."""

    kind: Literal["pass_rate"] = "pass_rate"
    metric: str = Field(
        default="accuracy", description="accuracy (of the main check), reward, or a check's name"
    )
    rate: float = Field(default=0.5, gt=0, le=1, description="weight of the newest group; 1: it alone counts")

    _rates: dict[str, float] = PrivateAttr(default_factory=dict)

    def number(self, sample: Sample) -> float | None:
        return self._rates.get(prompt_key(sample))

    def learn(self, group: Sequence[Scored]) -> None:
        found = [v for one in unaided(group) if (v := value(one, self.metric)) is not None]
        if not found:
            return
        key, mean = prompt_key(group[0].sample), sum(found) / len(found)
        old = self._rates.get(key, mean)
        self._rates[key] = old + self.rate * (mean - old)

    def state(self) -> dict[str, Any]:
        return {"rates": dict(self._rates)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rates = dict(state.get("rates", {}))
