"""Metrics: labelled values that merge exactly, and what a step's rollouts say per source and task.

The rollout metrics are the *source metrics* of V-Triune without its artefacts: "correct" is each verifier's
own threshold instead of reward == 1, an empty set has no mean instead of NaN, and a rollout that could not be
judged is counted by its status instead of scored 0. Names are TRL's where it has one; see `docs/monitor.md`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from triune.core.sample import Sample
from triune.core.trajectory import Trajectory
from triune.core.verdict import Ending, Outcome, Status, Verdict

Labels = tuple[tuple[str, str], ...]
"""A frozen mapping: (label, value) pairs sorted by label. A label that does not apply is absent."""

REFLECTION_WORDS = (
    "re-check", "re-evaluate", "re-examine", "re-think", "recheck", "reevaluate", "reexamine", "reevaluation",
    "rethink", "check again", "think again", "try again", "verify", "wait", "yet",
)  # fmt: skip
"""V-Triune's list; a response is *reflective* if its lower-cased text contains one of them."""

NO_SPREAD = 1e-8
"""Rewards that differ by no more than this are equal: floating-point noise is not a learning signal."""

# Every finite float is a whole number of 2**-1074, so sums are integers: merging is exact in any order, for
# any number of processes, and equal values deviate by exactly 0, where float sums leave noise.
_SCALE = 1074


@dataclass(frozen=True, slots=True)
class Metric:
    """The moments of values under a name and labels; nothing observed means no metric, never an empty one.

    `total` counts units of 2**-1074, `squares` of 2**-2148. `nonfinite` counts the values that were NaN or
    infinite: they stay out of the moments and are never lost.
    """

    name: str
    labels: Labels
    count: int
    total: int = field(repr=False)
    squares: int = field(repr=False)
    min: float
    max: float
    nonfinite: int = 0

    def __post_init__(self) -> None:
        if self.count + self.nonfinite < 1:
            raise ValueError(f"metric {self.name!r} has no values; leave it out instead")

    @classmethod
    def of(cls, name: str, values: Iterable[float], /, **labels: str) -> Metric:
        """The metric of these values; raises ValueError if there are none."""
        observed = [float(value) for value in values]
        finite = [value for value in observed if math.isfinite(value)]
        totals: dict[int, int] = defaultdict(int)
        squares: dict[int, int] = defaultdict(int)
        for value in finite:
            numerator, denominator = value.as_integer_ratio()  # the denominator is a power of two
            totals[denominator] += numerator
            squares[denominator] += numerator * numerator
        return cls(
            name=name,
            labels=labelled(**labels),
            count=len(finite),
            total=sum(n << _shift(d) for d, n in totals.items()),
            squares=sum(n << 2 * _shift(d) for d, n in squares.items()),
            min=min(finite, default=math.inf),  # the neutral elements of a merge
            max=max(finite, default=-math.inf),
            nonfinite=len(observed) - len(finite),
        )

    @property
    def mean(self) -> float:
        """NaN if (and only if) no value was finite."""
        return self.total / (self.count << _SCALE) if self.count else math.nan

    @property
    def std(self) -> float:
        """The population standard deviation (divided by the count); NaN if no value was finite."""
        spread = self.count * self.squares - self.total**2
        return math.isqrt(spread) / (self.count << _SCALE) if self.count else math.nan

    def label(self, key: str) -> str:
        """Its value, or '' where the label does not apply."""
        return dict(self.labels).get(key, "")

    def merge(self, other: Metric) -> Metric:
        """The metric of both sets of values; raises ValueError if name or labels differ."""
        if (self.name, self.labels) != (other.name, other.labels):
            raise ValueError(f"{self.name}{self.labels} and {other.name}{other.labels} are not one metric")
        return replace(
            self,
            count=self.count + other.count,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            min=min(self.min, other.min),
            max=max(self.max, other.max),
            nonfinite=self.nonfinite + other.nonfinite,
        )


def _shift(denominator: int) -> int:
    return _SCALE + 1 - denominator.bit_length()


def labelled(**labels: str) -> Labels:
    """Leaves out the labels that are ''."""
    return tuple(sorted((key, value) for key, value in labels.items() if value))


def scalar(name: str, value: float, /, **labels: str) -> Metric:
    """One number as a metric: the loss, `grad_norm` with module="vision", `seconds` with phase="rollout"."""
    return Metric.of(name, [value], **labels)


def merge(metrics: Iterable[Metric], by: Sequence[str] | None = None) -> list[Metric]:
    """Merges metrics of equal name and labels, sorted by these; `by` merges over all labels but these."""
    merged: dict[tuple[str, Labels], Metric] = {}
    for metric in metrics:
        labels = tuple(pair for pair in metric.labels if by is None or pair[0] in by)
        key, part = (metric.name, labels), replace(metric, labels=labels)
        merged[key] = merged[key].merge(part) if key in merged else part
    return [merged[key] for key in sorted(merged)]


@dataclass(frozen=True, slots=True)
class Scored:
    """One judged rollout. `reason` says why it left the loss or the baseline, '' if it is in both."""

    sample: Sample
    trajectory: Trajectory
    outcome: Outcome
    verdict: Verdict
    in_loss: bool = True
    in_baseline: bool = True
    reason: str = ""

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens before the first of another origin, media tokens included; None for a tokenless family."""
        origin = self.trajectory.payload.arrays.get("origin")
        if origin is None:
            return None
        return next(iter(np.flatnonzero(origin != origin[:1]).tolist()), len(origin))


class _Values:
    """Observed values by name and labels; `at` holds the labels of the rollout or group at hand."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, Labels], list[float]] = defaultdict(list)
        self.at: dict[str, str] = {}

    def add(self, name: str, value: float | None, **labels: str) -> None:
        if value is not None:
            self.seen[name, labelled(**self.at, **labels)].append(value)


def rollout_metrics(scored: Sequence[Scored], words: Sequence[str] = REFLECTION_WORDS) -> list[Metric]:
    """What these rollouts say, per source and task. Parts that split no group merge into the whole."""
    values = _Values()
    groups: dict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    for one in scored:
        source, task = one.sample.source, one.sample.task
        values.at = {"source": source, "task": task}
        _add_verdict(values, one)
        _add_response(values, one, words)
        if one.in_baseline and one.verdict.reward is not None:
            groups[source, task, one.trajectory.group].append(one.verdict)
    for (source, task, _), group in groups.items():
        values.at = {"source": source, "task": task}
        if len(group) > 1:  # a single rollout has no spread to speak of
            _add_group(values, group)
    return [Metric.of(name, seen, **dict(labels)) for (name, labels), seen in sorted(values.seen.items())]


def _add_verdict(values: _Values, one: Scored) -> None:
    add, verdict = values.add, one.verdict
    if verdict.reward is not None:
        low, high = _reward_range(one.sample)
        add("reward", verdict.reward)
        add("reward/share_at_min", verdict.reward <= low + NO_SPREAD)
        add("reward/share_at_max", verdict.reward >= high - NO_SPREAD)
    add("correct", verdict.correct)
    add("accuracy", verdict.main.value if verdict.components else None)
    add("judge/seconds", verdict.elapsed)
    for status in get_args(Status):
        add("status", verdict.status == status, status=status)
    for part in verdict.components:
        add("component", part.value, component=part.name)
        add("component/correct", part.correct, component=part.name)
        add("component/not_ok", part.status != "ok", component=part.name)
        if part.value is not None:
            # Fixed bounds, and beyond counts as at: the extremes of each step would move with the policy.
            add("component/share_at_min", part.value <= 0, component=part.name)
            add("component/share_at_max", part.value >= 1, component=part.name)
        for key, value in part.metrics.items():
            add(f"verifier/{key}", value, component=part.name)
    add("dropped/loss", not one.in_loss)
    add("dropped/baseline", not one.in_baseline)
    add("dropped/reason", 1.0 if one.reason else None, reason=one.reason)


def _reward_range(sample: Sample) -> tuple[float, float]:
    """The least and the most that components on [0, 1] can add up to."""
    weights = [check.weight for check in sample.checks]
    scale = (sum(weights) if sample.normalize else 0.0) or 1.0
    return sum(min(w, 0.0) for w in weights) / scale, sum(max(w, 0.0) for w in weights) / scale


def _add_response(values: _Values, one: Scored, words: Sequence[str]) -> None:
    add, outcome, correct = values.add, one.outcome, one.verdict.correct
    text = outcome.text.lower()
    counts = {word: text.count(word) for word in words}
    reflective = any(counts.values())
    for split in ("",) if correct is None else ("", "_correct" if correct else "_wrong"):
        add(f"completions/length{split}", outcome.num_tokens)
        add(f"completions/clipped_ratio{split}", outcome.truncated)
        add(f"reflection/ratio{split}", reflective)
    add("reflection/correct_with" if reflective else "reflection/correct_without", correct)
    for word, count in counts.items():
        add("reflection/word", count, word=word)
    add("prompts/length", one.prompt_tokens)
    add("episode/turns", outcome.num_turns)
    for ending in get_args(Ending):
        add("ending", outcome.ending == ending, ending=ending)
    for call in outcome.calls:
        add("tools/ok", call.ok, tool=call.name)


def _add_group(values: _Values, group: Sequence[Verdict]) -> None:
    """`group`: the verdicts that one baseline is formed over."""
    rewards = [verdict.reward for verdict in group if verdict.reward is not None]
    values.add("reward_std", Metric.of("reward", rewards).std)
    values.add("frac_reward_zero_std", max(rewards) - min(rewards) <= NO_SPREAD)
    parts: dict[str, list[float]] = defaultdict(list)
    for part in (part for verdict in group for part in verdict.components if part.value is not None):
        parts[part.name].append(part.value or 0.0)
    for name, seen in parts.items():
        values.add("component_std", Metric.of(name, seen).std, component=name)
