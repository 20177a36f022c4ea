"""What the routes share: which run is asked for, what is remembered of it, and how numbers travel."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request

from triune.monitor.runs import RunFolder, Runs, held_locks
from triune.monitor.store import Point, Store

T = TypeVar("T")


class Memo:
    """Answers that are kept for as long as what they were made from stays as it was. Safe to use from several threads."""

    def __init__(self, size: int = 2000) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, key: Hashable, stamp: str) -> bool:
        """Whether `get` would answer at once."""
        with self._lock:
            return key in self._kept and self._kept[key][0] == stamp

    def get(self, key: Hashable, stamp: str, make: Callable[[], T]) -> T:
        """What `make` gave for this key and stamp. The stamp is taken before: what is written meanwhile changes the next."""
        with self._lock:
            if key in self._kept and self._kept[key][0] == stamp:
                self._kept.move_to_end(key)
                found: T = self._kept[key][1]
                return found
        made = make()
        with self._lock:
            self._kept[key] = stamp, made
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return made


def memo(request: Request) -> Memo:
    found: Memo = request.app.state.memo
    return found


Remembered = Annotated[Memo, Depends(memo)]


def all_runs(request: Request) -> Runs:
    found: Runs = request.app.state.runs
    return found


AllRuns = Annotated[Runs, Depends(all_runs)]
RunName = Annotated[str, Query(alias="run", min_length=1, max_length=500, description="name of a run")]


def one_run(runs: AllRuns, run: RunName) -> RunFolder:
    return runs.open(run)


def one_store(runs: AllRuns, run: RunName) -> Iterator[Store]:
    with runs.reading(run) as store:
        yield store


OneRun = Annotated[RunFolder, Depends(one_run)]
OneStore = Annotated[Store, Depends(one_store)]
"""Declare one of these in a route and it is asked with `?run=NAME`."""


def known_locks() -> Mapping[str, int] | None:
    """To be read once for many runs; None where the system does not say."""
    try:
        return held_locks()
    except (OSError, ValueError):
        return None


def written(store: Store) -> float | None:
    """When a step of any phase was last logged, in seconds since 1970."""
    return max((time for phase in store.phases() for time in store.times(phase).values()), default=None)


def number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: both are null."""
    return value if value is not None and math.isfinite(value) else None


def numbers(values: Iterable[float]) -> list[float | None]:
    return [number(value) for value in values]


def curves(
    series: Mapping[tuple[str, ...], Sequence[Point]], by: Sequence[str]
) -> list[dict[str, dict[str, str] | list[int] | list[float | None]]]:
    """Series as columns: `{"key": {"source": ...}, "step": [...], "mean": [...], ...}`."""
    return [
        {
            "key": dict(zip(by, key, strict=True)),
            "step": [point.step for point in points],
            "count": [point.count for point in points],
            "nonfinite": [point.nonfinite for point in points],
            **{
                name: numbers(getattr(point, name) for point in points)
                for name in ("mean", "std", "min", "max")
            },
        }
        for key, points in sorted(series.items())
    ]


Json = dict[str, Any]
