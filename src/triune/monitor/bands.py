"""Curves of several runs on one axis: overlaid, subtracted, and as mean and band over seeds. No drawing here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from triune.monitor.seeds import I64, interval
from triune.monitor.stats import F64
from triune.monitor.store import Point, Store

HELD_OUT = ("eval-before", "eval", "eval-after")
"""The phases of one held-out curve; where two have a point at one step, the later named counts."""

MANY_SEEDS = 5
"""From so many seeds on a band is a 95 % interval. With fewer, Student's factor (12.7 of two, 4.3 of three) would draw a
band that says more of the factor than of the runs: there the band is what was seen, from the least to the greatest."""


@dataclass(frozen=True, slots=True)
class Curve:
    """`values` f64[n] at rising `steps` i64[n]; steps without a finite value are not there."""

    steps: I64
    values: F64

    @classmethod
    def of(cls, points: Iterable[Point]) -> Curve:
        seen = [(point.step, point.mean) for point in points if point.count]
        return cls(
            np.array([step for step, _ in seen], np.int64), np.array([value for _, value in seen], np.float64)
        )

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, slots=True)
class Band:
    """Mean over `n` curves per step, with `low` and `high`; all f64[m], `steps` i64[m].

    `kind`: `min-max` for fewer than `MANY_SEEDS` curves, else `t95`, Student's 95 % interval of the mean over seeds; for one
    curve '', and no width. `made` counts the values that were interpolated because a run logged at other steps.
    """

    steps: I64
    mean: F64
    low: F64
    high: F64
    n: int
    kind: Literal["", "min-max", "t95"]
    made: int = 0


def curves(
    store: Store,
    name: str,
    *,
    phases: Sequence[str] = ("train",),
    by: Sequence[str] = ("source",),
    where: Mapping[str, str] | None = None,
    since: int | None = None,
    until: int | None = None,
    points: int | None = None,
) -> dict[tuple[str, ...], Curve]:
    """A metric of one run over the steps of these phases together; of a step in two phases the later named one counts.

    `since`, `until` and `points` as of `Store.series`, of each phase.
    """
    found: dict[tuple[str, ...], dict[int, Point]] = {}
    for phase in phases:
        series = store.series(name, phase=phase, by=by, where=where, since=since, until=until, points=points)
        for key, curve in series.items():
            found.setdefault(key, {}).update((point.step, point) for point in curve)
    return {key: Curve.of(known[step] for step in sorted(known)) for key, known in found.items()}


def align(chosen: Sequence[Curve]) -> tuple[I64, F64, int]:
    """Curves at the same steps: steps i64[m], values f64[k, m], and how many values were interpolated.

    The steps are all that any curve has, within the range that every curve covers: beyond it a mean would jump as runs drop
    out. A curve that has no value at such a step gets the straight line between its neighbours.
    """
    if not chosen or not all(map(len, chosen)):
        return np.zeros(0, np.int64), np.zeros((len(chosen), 0)), 0
    low, high = max(curve.steps[0] for curve in chosen), min(curve.steps[-1] for curve in chosen)
    steps = np.unique(np.concatenate([curve.steps for curve in chosen]))
    steps = steps[(steps >= low) & (steps <= high)]
    values = np.array([np.interp(steps, curve.steps, curve.values) for curve in chosen])
    made = sum(int((~np.isin(steps, curve.steps)).sum()) for curve in chosen)
    return steps, values.reshape(len(chosen), len(steps)), made


def difference(first: Curve, second: Curve) -> Curve:
    """`second` less `first` at the steps of `align`; empty where they share no range."""
    steps, values, _ = align((first, second))
    return Curve(steps, values[1] - values[0])


def band(chosen: Sequence[Curve]) -> Band:
    """Mean and band over seeds of one configuration; raises ValueError for none."""
    if not chosen:
        raise ValueError("a band needs at least one curve")
    steps, values, made = align(chosen)
    k, mean = len(chosen), values.mean(axis=0)
    if k < MANY_SEEDS:
        return Band(steps, mean, values.min(axis=0), values.max(axis=0), k, "min-max" if k > 1 else "", made)
    bounds = [interval(m, [(v / k, k - 1)]) for m, v in zip(mean, values.var(axis=0, ddof=1), strict=True)]
    low, high = np.array(bounds).reshape(-1, 2).T
    return Band(steps, mean, low, high, k, "t95", made)
