"""Metrics: labelled values that merge exactly, and the judged rollouts that most of them are made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from triune.core.sample import Sample
from triune.core.trajectory import Trajectory
from triune.core.verdict import Outcome, Verdict

Labels = tuple[tuple[str, str], ...]
"""A frozen mapping: (label, value) pairs sorted by label. A label that does not apply is absent."""

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
        return cls.made(name, labelled(**labels), values)

    @classmethod
    def made(cls, name: str, labels: Labels, values: Iterable[float], zeros: int = 0) -> Metric:
        """The same of these values and so many zeros, under labels that are `labelled` already."""
        # Equal values once: most metrics are shares, of zeros and ones.
        times: dict[float, int] = {0.0: zeros} if zeros else {}
        for value in map(float, values):
            times[value] = times.get(value, 0) + 1
        finite = [value for value in times if math.isfinite(value)]
        totals: dict[int, int] = {}
        squares: dict[int, int] = {}
        count = total = square = 0
        for value in finite:
            number = times[value]
            numerator, denominator = value.as_integer_ratio()  # the denominator is a power of two
            totals[denominator] = totals.get(denominator, 0) + number * numerator
            squares[denominator] = squares.get(denominator, 0) + number * numerator * numerator
            count += number
        for denominator, part in totals.items():
            shift = _SCALE + 1 - denominator.bit_length()
            total += part << shift
            square += squares[denominator] << 2 * shift
        low = min(finite, default=math.inf)  # the neutral elements of a merge
        high = max(finite, default=-math.inf)
        return cls(name, labels, count, total, square, low, high, sum(times.values()) - count)

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
        if by is not None:
            metric = replace(metric, labels=tuple(pair for pair in metric.labels if pair[0] in by))
        key = (metric.name, metric.labels)
        merged[key] = merged[key].merge(metric) if key in merged else metric
    return [merged[key] for key in sorted(merged)]


@dataclass(frozen=True, slots=True)
class Scored:
    """One judged rollout. `reason` says why it left the loss or the baseline, '' if it is in both. `drawn`: the policy drew
    it for this step; if not (a demonstration, a replayed success), it says nothing of how good the policy is."""

    sample: Sample
    trajectory: Trajectory
    outcome: Outcome
    verdict: Verdict
    in_loss: bool = True
    in_baseline: bool = True
    reason: str = ""
    drawn: bool = True

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens before the first of another origin, media tokens included; None for a tokenless family."""
        origin = self.trajectory.payload.arrays.get("origin")
        if origin is None:
            return None
        # The first differs from itself nowhere, so that 0 means none.
        return (int((origin != origin[0]).argmax()) or len(origin)) if len(origin) else 0
