"""Numbers with their uncertainty: every share and mean of an evaluation comes with a 95 % interval that says how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from triune.core.base import Frozen
from triune.monitor.stats import bootstrap, wilson

T = TypeVar("T")


class Number(Frozen):
    """A figure over `n` samples. `value` None: undefined (nothing to divide by). A bare count has no interval.

    `interval`: `wilson` for shares of samples, `bootstrap` (percentile, over samples) for everything else.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    interval: Literal["wilson", "bootstrap", ""] = ""

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return (
                f"{self.value:g}"
                if self.value == int(self.value) and not self.interval
                else f"{self.value:.3f}"
            )
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def count(number: int, n: int) -> Number:
    """A plain count among `n` samples."""
    return Number(value=float(number), n=n)


def share(yes: Iterable[bool]) -> Number:
    """The share of samples for which something holds, with Wilson's score interval (Wilson 1927, Eq. 3)."""
    found = [bool(one) for one in yes]
    n, hits = len(found), sum(found)
    if not n:
        return Number(value=None, n=0)
    p = hits / n
    low, high = wilson(p, n)
    return Number(value=p, n=n, low=low, high=high, interval="wilson")


def mean(values: Iterable[float]) -> Number:
    """The mean over samples with the bootstrap's percentile interval; no interval for fewer than two samples.

    Values that are all 0 or 1 are a share: where all are equal, the bootstrap's interval would have no width.
    """
    found = np.asarray(list(values), np.float64)
    if np.isin(found, (0.0, 1.0)).all():
        return share(found == 1.0)
    low, high = bootstrap([found]) or (None, None)
    return Number(
        value=float(found.mean()),
        n=len(found),
        low=low,
        high=high,
        interval="bootstrap" if low is not None else "",
    )


RESAMPLES = 500
"""Of figures that are not means and must be made anew for every draw."""


def draws(n: int, of: Callable[[NDArray[Any]], T], *, seed: int = 0) -> list[T]:
    """`of(how often each of n samples was drawn: i64[n])` for every resample; deterministic for a seed."""
    rng = np.random.default_rng(seed)
    return [of(np.bincount(rng.integers(n, size=n), minlength=n)) for _ in range(RESAMPLES if n > 1 else 0)]


def resampled(value: float | None, n: int, drawn: Iterable[float | None]) -> Number:
    """A figure with the percentile interval of its resamples; those in which it is undefined (None) are left out, and
    with fewer than half of them there is no interval."""
    found = [one for one in drawn if one is not None]
    if value is None or len(found) < RESAMPLES // 2:
        return Number(value=value, n=n)
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return Number(value=value, n=n, low=low, high=high, interval="bootstrap")
