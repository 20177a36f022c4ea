"""The list of runs: where each stands, which of them a search finds, and the words that the user gave them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Query

from triune.core.errors import TriuneError
from triune.core.loading import flat
from triune.monitor import alarms
from triune.monitor.bands import HELD_OUT, curves
from triune.monitor.dash.reading import AllRuns, Json, OneRun, Remembered, known_locks, number, written
from triune.monitor.runs import RunFolder, Runs
from triune.monitor.store import Store

router = APIRouter()

PATIENCE_SECONDS = 0.4
"""For so long runs are read that were not read before; a list of very many is answered in parts."""


@router.get("/api/runs")
def runs(
    runs: AllRuns, memo: Remembered, text: Annotated[str, Query(max_length=200, description="words")] = ""
) -> Json:
    """Every run with where it stands, newest first; one that cannot be read says why.

    `text`: only those with each of its words in name, tags, or a line `key: value` of the recipe; `matched` are such lines.
    `waiting`: so many runs are yet to be read; they are listed by name alone, and not searched. Ask again.
    """
    words, locks, end = text.lower().split(), known_locks(), time.monotonic() + PATIENCE_SECONDS
    rows: list[Json] = []
    read = waiting = 0
    for name in runs.names():
        row: Json = {"name": name, "tags": [], "matched": []}
        lines: Sequence[str] = ()
        try:
            run = runs.open(name, locks)
            stamp = run.stamp
            known = memo.knows(("run", run.path), stamp)
            if not known and read and time.monotonic() > end:
                waiting += 1
                if not words:
                    rows.append(row | {"waiting": True})
                continue
            row |= {"live": run.live, "tags": run.tags}
            said, lines = memo.get(("run", run.path), stamp, partial(_read, runs, run))
            row |= said
            read += not known  # at least one each time, so that asking again comes to an end
        except TriuneError as error:
            row["error"] = str(error)
        if _matches(row, lines, words):
            rows.append(row)
    return {"runs": rows, "waiting": waiting}


@router.post("/api/runs/tags")
def tag(run: OneRun, tags: Annotated[list[str], Body(embed=True)]) -> Json:
    """Puts these in place of a run's tags."""
    run.tag(tags)
    return {"name": run.name, "tags": run.tags}


def _matches(row: Json, lines: Sequence[str], words: Sequence[str]) -> bool:
    """Whether each word is in its name, its tags or its recipe; notes as few lines of the latter as hold the words."""
    known = "\n".join([row["name"], *row["tags"]]).lower()
    sought = {word for word in words if word not in known}
    while sought:
        held = [{word for word in sought if word in line.lower()} for line in lines]
        best = max(range(len(lines)), key=lambda n: len(held[n]), default=-1)
        if best < 0 or not held[best]:
            return False
        row["matched"].append(lines[best])
        sought -= held[best]
    return True


def _read(runs: Runs, run: RunFolder) -> tuple[Json, list[str]]:
    return _standing(runs, run), _lines(run)


def _lines(run: RunFolder) -> list[str]:
    return [
        f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}"
        for key, value in flat(run.recipe)
    ]


def _standing(runs: Runs, run: RunFolder) -> Json:
    with runs.reading(run.name) as store:
        held = [alarm for alarm in alarms.read(store) if alarm.over is None]
        reward = store.latest("reward", by=()).get(())
        return {
            "total_steps": run.total_steps,
            "step": max(store.steps(), default=0),
            "updated": written(store),
            "reward": number(reward.mean if reward else None),
            **_held_out(store),
            "alarms": [{"level": alarm.level, "said": str(alarm)} for alarm in held],
        }


def _held_out(store: Store) -> Json:
    """Held-out accuracy, the mean over sources in which each counts once, and what it gained since the first evaluation."""
    sources = [curve.values for curve in curves(store, "accuracy", phases=HELD_OUT).values() if len(curve)]
    gained = [values[-1] - values[0] for values in sources if len(values) > 1]
    return {
        "held_out": number(sum(values[-1] for values in sources) / len(sources) if sources else None),
        "gain": number(sum(gained) / len(gained) if gained else None),
    }
