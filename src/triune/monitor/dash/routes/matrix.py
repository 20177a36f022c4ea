"""Every source against every component and diagnostic: the value now, and how it changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query

from triune.monitor.dash.reading import Json, OneStore, number
from triune.monitor.store import Point, Store

router = APIRouter()

HELD_OUT = "held-out"
"""In place of a phase: the evaluations of the policy as it is, before, during and after the run."""
_EVALUATIONS = ("eval-before", "eval", "eval-after")
_POINTS = 60
"""Points of a window that are read: longer ones come merged."""
_ENDS = 10
"""Either end of a change is the mean over a tenth of the window."""

_SPLIT = {
    **dict.fromkeys(("component", "component/gated", "component/correct", "component/not_ok"), "component"),
    **dict.fromkeys(("component/share_at_min", "component/share_at_max", "component_std"), "component"),
    **dict.fromkeys(("frac_component_zero_std", "pairs", "pairs/none"), "component"),
    **dict.fromkeys(("demonstrations/missing", "schedule"), "component"),
    "status": "status", "ending": "ending", "tools/ok": "tool", "reflection/word": "word", "dropped/reason": "reason",
    "gate/share": "mode", "dynamic_sampling/dropped": "reason", "difficulty/skipped": "reason",
    "replay/not_stored": "reason", "replay/evicted": "reason", "rollouts/unkept": "reason",
}  # fmt: skip
"""The label that makes a column of its own for each of its values."""
_FAMILIES = {"verifier/": "component", "placed/": "component", "preference/": "component", "view/": "view"} | {
    "perception/": "view", "branch/": "view"
}  # fmt: skip

_MAIN = (
    "reward", "accuracy", "correct", "component", "frac_reward_zero_std", "reward_std", "completions/length",
    "completions/clipped_ratio", "status", "component/not_ok", "dropped/loss", "frac_component_zero_std", "entropy",
    "clip_frac/low", "clip_frac/high", "approx_kl", "ratio", "log_ratio_abs", "sampling/sampling_logp_difference",
)  # fmt: skip
"""Shown unless everything is asked for, in this order, and every `kl/*`."""

_BETTER = {
    **dict.fromkeys(("reward", "accuracy", "correct", "component", "component/correct", "tools/ok"), 1),
    **dict.fromkeys(
        ("frac_reward_zero_std", "frac_component_zero_std", "degenerate", "component/not_ok"), -1
    ),
    **dict.fromkeys(("completions/clipped_ratio", "dropped/loss", "dropped/baseline", "dropped/reason"), -1),
    **dict.fromkeys(("sampling/sampling_logp_difference", "stale/dropped", "mismatch/outside"), -1),
}
"""Whether more is better (1) or worse (-1); everything else is neither."""

_SURE, _SOME = 5.0, 2.0  # standard errors


class End(NamedTuple):
    """The values of an end of a window: how many, their mean and deviation."""

    values: int
    mean: float
    std: float

    @classmethod
    def of(cls, points: Sequence[Point]) -> End:
        count = sum(point.count for point in points)
        mean = sum(point.count * point.mean for point in points) / count
        squares = sum(point.count * (point.std**2 + (point.mean - mean) ** 2) for point in points)
        return cls(count, mean, math.sqrt(squares / count))


@dataclass(frozen=True, slots=True)
class Change:
    """Between the ends of a window; `errors` are the standard errors that lie between them, None where one value at either
    end says nothing of the spread."""

    before: End
    now: End

    @classmethod
    def over(cls, points: Sequence[Point]) -> Change | None:
        """None for less than two points with a value."""
        known = [point for point in points if point.count]
        if len(known) < 2:
            return None
        width = max(1, len(known) // _ENDS)
        return cls(End.of(known[:width]), End.of(known[-width:]))

    @property
    def by(self) -> float:
        return self.now.mean - self.before.mean

    @property
    def errors(self) -> float | None:
        if min(self.before.values, self.now.values) < 2:
            return None
        variance = sum(end.std**2 / (end.values - 1) for end in (self.before, self.now))
        return abs(self.by) / math.sqrt(variance) if variance > 0 else math.inf if self.by else 0.0

    @property
    def level(self) -> int:
        """0: as it was; 1: it may be chance; 2 and 3: 2 and 5 standard errors and more."""
        errors = self.errors
        if self.by == 0 or errors is None:
            return int(self.by != 0)
        return 3 if errors >= _SURE else 2 if errors >= _SOME else 1


@router.get("/api/matrix")
def matrix(
    store: OneStore,
    phase: str = "train",
    window: Annotated[int, Query(ge=0, description="steps; 0: the whole run")] = 100,
    every: Annotated[bool, Query(description="every metric that is kept per source")] = False,
) -> Json:
    """One row a source. A cell: value, step and count of the last point, change over the window and its level, and how many
    values of the window were not finite; null where the source has no such metric."""
    phases = [one for one in store.phases() if one in _EVALUATIONS] if phase == HELD_OUT else [phase]
    phases.sort(key=lambda one: _EVALUATIONS.index(one) if one in _EVALUATIONS else 0)
    last = max((steps[-1] for one in phases if (steps := store.steps(one))), default=0)
    since = max(0, last - window) if window else 0
    names = {name for one in phases for name in store.names(one)}
    columns: list[Json] = []
    cells: dict[str, dict[int, Json]] = {}
    for name in _chosen(names, every):
        label = _label(name)
        found = _read(store, name, phases, label, since)
        for value in sorted({key[1] for key in found}):
            if every or name != "status" or value == "ok" or _ever(found, value):
                for (source, other), points in found.items():
                    if other == value:
                        cells.setdefault(source, {})[len(columns)] = _cell(points)
                columns.append(_column(name, label if value else "", value))
    tasks = {
        source: task
        for one in phases
        for source, task in store.latest("status", phase=one, by=("source", "task"))
    }
    return {
        "phase": phase, "phases": store.phases(), "last": last, "since": since, "columns": columns,
        "rows": [
            {"source": source, "task": tasks.get(source, ""), "cells": [row.get(n) for n in range(len(columns))]}
            for source, row in sorted(cells.items(), key=lambda item: (tasks.get(item[0], ""), item[0]))
        ],
    }  # fmt: skip


def _chosen(names: Iterable[str], every: bool) -> list[str]:
    main = [name for name in _MAIN if name in names]
    main += sorted(name for name in names if name.startswith("kl/"))
    return main + (sorted(set(names) - set(main)) if every else [])


def _label(name: str) -> str:
    family = next((label for start, label in _FAMILIES.items() if name.startswith(start)), "")
    return _SPLIT.get(name, family)


def _read(
    store: Store, name: str, phases: Sequence[str], label: str, since: int
) -> dict[tuple[str, str], list[Point]]:
    """Points by source and value of the label, phase after phase; what has no source is left out."""
    found: dict[tuple[str, str], list[Point]] = {}
    for phase in phases:
        by = ("source", label) if label else ("source",)
        series = store.series(name, phase=phase, by=by, since=since, points=_POINTS)
        if since:  # where nothing was measured within the window, the last value all the same
            series = {key: [point] for key, point in store.latest(name, phase=phase, by=by).items()} | series
        for key, points in series.items():
            source, value = (*key, "")[:2]
            if source:
                found.setdefault((source, value), []).extend(points)
    return found


def _ever(found: Mapping[tuple[str, str], Sequence[Point]], value: str) -> bool:
    return any(point.max > 0 for (_, other), points in found.items() if other == value for point in points)


def _column(name: str, label: str, value: str) -> Json:
    better = (1 if value == "ok" else -1) if name == "status" else _BETTER.get(name, 0)
    return {"name": name, "label": label, "value": value, "better": better}


def _cell(points: Sequence[Point]) -> Json:
    last, change = points[-1], Change.over(points)
    return {
        "now": number(last.mean), "step": last.step, "count": last.count,
        "nonfinite": sum(point.nonfinite for point in points),
        "change": None if change is None else number(change.by), "level": 0 if change is None else change.level,
        "errors": None if change is None else number(change.errors),
    }  # fmt: skip
