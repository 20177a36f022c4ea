"""What the routes share: which run is asked for, and how numbers travel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from triune.monitor.runs import RunFolder, Runs
from triune.monitor.store import Point, Store


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
