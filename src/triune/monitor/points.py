"""Moments of values at a step or over several, one by one and in columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triune.monitor.metric import Metric, labelled

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


MOMENTS = "step, count, coalesce(mean, 0.0), coalesce(std, 0.0), coalesce(min, mean, 0.0), coalesce(max, mean, 0.0), nonfinite"
"""Columns of the tables `points` and `rollups`, where std, min and max are NULL of values that were all equal."""


@dataclass(frozen=True, slots=True)
class Point:
    """A metric at a step, or over the steps up to it, merged over the labels that were not asked for.

    Moments as in `Metric`: the standard deviation is the population's, and all are NaN if no value was finite.
    """

    step: int
    count: int
    mean: float
    std: float
    min: float
    max: float
    nonfinite: int = 0


@dataclass(frozen=True, slots=True)
class Points:
    """Points in columns, in the order in which they are merged.

    step, count and nonfinite i64[N]; mean, std, min and max f64[N], NaN where the count is 0.
    """

    step: I64
    count: I64
    mean: F64
    std: F64
    min: F64
    max: F64
    nonfinite: I64

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]]) -> tuple[I64, Points]:
        """From rows of series and `MOMENTS`: the series i64[N], and the points."""
        table = np.fromiter(chain.from_iterable(rows), np.float64, 8 * len(rows)).reshape(-1, 8).T
        series, step, count, mean, std, low, high, nonfinite = table
        known = count > 0
        points = cls(
            step=step.astype(np.int64),
            count=count.astype(np.int64),
            mean=np.where(known, mean, np.nan),
            std=np.where(known, std, np.nan),
            min=np.where(known, low, np.nan),
            max=np.where(known, high, np.nan),
            nonfinite=nonfinite.astype(np.int64),
        )
        return series.astype(np.int64), points

    def __len__(self) -> int:
        return len(self.step)

    def take(self, order: NDArray[Any]) -> Points:
        return Points(*(getattr(self, name)[order] for name in Points.__slots__))

    def merge(self, starts: I64) -> Points:
        """One point for each run of points that begins at `starts` (rising, the first 0), at its last step.

        The mean of means and the deviation about it, in that order: exact where a run holds a single point, and no
        difference of large squares anywhere.
        """
        if len(starts) == len(self):
            return self
        sizes = np.diff(np.append(starts, len(self)))
        count = np.add.reduceat(self.count, starts)
        some = count > 0
        share = self.count / np.repeat(np.maximum(count, 1), sizes)
        known = self.count > 0
        low = np.minimum.reduceat(np.where(known, self.min, math.inf), starts)
        high = np.maximum.reduceat(np.where(known, self.max, -math.inf), starts)
        mean = np.add.reduceat(np.where(known, self.mean, 0.0) * share, starts)
        mean = np.minimum(np.maximum(mean, low), high)  # rounding leaves neither the range nor equal values
        apart = np.where(known, np.abs(self.mean - np.repeat(mean, sizes)), 0.0)
        std = np.where(known, self.std, 0.0)
        # Scaled by the largest of each run, so that no square overflows.
        scale = np.maximum.reduceat(np.maximum(apart, std), starts)
        unit = np.repeat(np.where(scale > 0, scale, 1.0), sizes)
        spread = np.add.reduceat(share * ((apart / unit) ** 2 + (std / unit) ** 2), starts)
        return Points(
            step=np.maximum.reduceat(self.step, starts),
            count=count,
            mean=np.where(some, mean, np.nan),
            std=np.where(some, np.where(low < high, scale * np.sqrt(spread), 0.0), np.nan),
            min=np.where(some, low, np.nan),
            max=np.where(some, high, np.nan),
            nonfinite=np.add.reduceat(self.nonfinite, starts),
        )

    def points(self) -> list[Point]:
        return list(map(Point, *(getattr(self, name).tolist() for name in Points.__slots__)))

    def rows(self) -> list[tuple[Any, ...]]:
        """As the tables hold them: step, count, mean, std, min, max, nonfinite."""
        columns = [getattr(self, name).tolist() for name in Points.__slots__]
        return [
            (step, count, mean if count else None, *((std, low, high) if low < high else (None,) * 3), bad)
            for step, count, mean, std, low, high, bad in zip(*columns, strict=True)
        ]


def remade(
    name: str,
    labels: Mapping[str, str],
    count: int,
    mean: float | None,
    std: float | None,
    low: float | None,
    high: float | None,
    nonfinite: int,
) -> Metric:
    """A metric that has these moments again, to be merged and sent like the one that they are of."""
    if mean is None or std is None or low is None or high is None:
        return Metric(name, labelled(**labels), 0, 0, 0, math.inf, -math.inf, nonfinite)
    unit_mean, unit_std = (Metric.of(name, [value]).total for value in (mean, std))
    squares = count * (unit_mean**2 + unit_std**2)
    return Metric(name, labelled(**labels), count, count * unit_mean, squares, low, high, nonfinite)


def runs(*keys: NDArray[Any]) -> I64:
    """Where a run of equal keys begins in columns that are sorted by them."""
    if not len(keys[0]):
        return np.empty(0, np.int64)
    change = np.zeros(len(keys[0]), bool)
    change[0] = True
    for key in keys:
        change[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(change)
