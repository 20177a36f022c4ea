"""One run on one screen: what is wrong, how far it is, and reward and held-out accuracy of every source."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query

from triune.monitor import alarms
from triune.monitor.bands import HELD_OUT, Curve
from triune.monitor.dash.reading import Json, OneRun, OneStore, number, numbers, written
from triune.monitor.runs import RunFolder
from triune.monitor.store import Point, Store

router = APIRouter()

MAX_POINTS = 1000
WINDOW = 50
"""Steps that the pace is the median of."""
KNOTS = 300
"""Points of the clock, between which a chart draws straight lines."""


@router.get("/api/overview")
def overview(
    run: OneRun,
    store: OneStore,
    since: int | None = None,
    until: int | None = None,
    points: Annotated[int, Query(ge=10, le=MAX_POINTS, description="of each curve")] = 150,
) -> Json:
    """All that the view shows, in one answer: a run of many sources and steps costs no more than its points."""
    stamp = run.stamp  # before reading: what is written meanwhile changes it
    return {"live": run.live, "stamp": stamp, **_read(run, store, since, until, points)}


def _read(run: RunFolder, store: Store, since: int | None, until: int | None, points: int) -> Json:
    reward = store.series("reward", by=("source", "task"), since=since, until=until, points=points)
    held_out: dict[tuple[str, ...], dict[int, Point]] = {}
    for phase in HELD_OUT:
        found = store.series(
            "accuracy", phase=phase, by=("source", "task"), since=since, until=until, points=points
        )
        for key, curve in found.items():
            held_out.setdefault(key, {}).update((point.step, point) for point in curve)
    accuracy = {key: [known[step] for step in sorted(known)] for key, known in held_out.items()}
    times = store.times()
    return {
        "name": run.name,
        "step": max(times, default=0),
        "total_steps": run.total_steps,
        "updated": written(store),
        **_pace(times, run.total_steps),
        "clock": _clock(times),
        "alarms": [_alarm(alarm) for alarm in alarms.read(store) if alarm.over is None],
        "kept": {phase: store.rollout_steps(phase) for phase in ("train", *HELD_OUT)},
        "mean": {"reward": _mean(list(reward.values())), "held_out": _mean(list(accuracy.values()))},
        "sources": [
            {
                "name": key[0],
                "task": key[1],
                "reward": _curve(reward.get(key, [])),
                "held_out": _curve(accuracy.get(key, [])),
            }
            for key in sorted({*reward, *accuracy}, key=lambda key: (key[1], key[0]))
        ],
    }


def _curve(points: Sequence[Point]) -> Json:
    found: Json = {"step": [point.step for point in points], "mean": numbers(point.mean for point in points)}
    if any(point.nonfinite for point in points):
        found["nonfinite"] = [point.nonfinite for point in points]
    return found


def _mean(curves: Sequence[Sequence[Point]]) -> Json:
    """The mean over sources, each of which counts once, with what was last seen of it by then."""
    known = [curve for curve in map(Curve.of, curves) if len(curve)]
    if not known:
        return {"step": [], "mean": []}
    steps = np.unique(np.concatenate([curve.steps for curve in known]))
    total, count = np.zeros(len(steps)), np.zeros(len(steps), np.int64)
    for curve in known:
        last = np.searchsorted(curve.steps, steps, side="right") - 1
        total += np.where(last >= 0, curve.values[last], 0.0)
        count += last >= 0
    return {"step": steps.tolist(), "mean": numbers((total / count).tolist())}


def _pace(times: Mapping[int, float], total: int | None) -> Json:
    """Seconds per step, the median of the last ones (a pause between two parts of a run is not the pace), and those left."""
    last = sorted(times)[-WINDOW - 1 :]
    gaps = [times[b] - times[a] for a, b in itertools.pairwise(last) if times[b] > times[a]]
    pace = statistics.median(gaps) if gaps else None
    left = pace * max(total - last[-1], 0) if pace is not None and total is not None else None
    return {"pace": number(pace), "left": number(left)}


def _clock(times: Mapping[int, float]) -> Json:
    """Seconds since the first step, at some of the steps. Where a part was run again, time does not go back."""
    steps = sorted(times)
    chosen = (
        [steps[n] for n in sorted({*range(0, len(steps), max(1, len(steps) // KNOTS)), len(steps) - 1})]
        if steps
        else []
    )
    seconds, high = [], 0.0
    for step in chosen:
        high = max(high, times[step] - times[steps[0]])
        seconds.append(round(high, 3))
    return {"step": chosen, "seconds": seconds}


def _alarm(alarm: alarms.Alarm) -> Json:
    return {
        "rule": alarm.rule, "level": alarm.level, "where": alarm.where, "source": alarm.source, "step": alarm.step,
        "message": alarm.message, "phase": alarm.phase, "component": alarm.component,
    }  # fmt: skip
