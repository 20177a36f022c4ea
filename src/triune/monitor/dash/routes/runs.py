"""The list of runs."""

from __future__ import annotations

from fastapi import APIRouter

from triune.core.errors import TriuneError
from triune.monitor.dash.reading import AllRuns, Json
from triune.monitor.runs import Runs

router = APIRouter()


@router.get("/api/runs")
def runs(runs: AllRuns) -> Json:
    """Every run with where it stands; one that cannot be read says why."""
    return {"runs": [_row(runs, name) for name in runs.names()]}


def _row(runs: Runs, name: str) -> Json:
    row: Json = {"name": name}
    try:
        run = runs.open(name)
        row |= {"live": run.live, "total_steps": run.total_steps, "tags": run.tags}
        with runs.reading(name) as store:
            times = store.times()
            row |= {"step": max(times, default=0), "updated": max(times.values(), default=None)}
    except TriuneError as error:
        row["error"] = str(error)
    return row
