"""Reading metrics over steps: labels merged, long runs from rollups.

Points lie in the order of steps, so a series is looked up step by step; which steps there are says the table `steps`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triune.monitor.points import MOMENTS, Point, Points, runs
from triune.monitor.rollups import WIDTHS

COLUMNS = ("source", "task", "component")
"""Labels with a column of their own; the others share the JSON column `labels`."""

Key = tuple[str, ...]
_FOREVER = 2**62
_SPAN = "WHERE phase = ? AND step BETWEEN ? AND ?"


@dataclass(frozen=True, slots=True)
class Curves:
    """The series of a metric. `chosen` are their rows in the table `series`, as SQL; `of` says which of the `keys`, the labels
    that tell curves apart, each belongs to."""

    db: sqlite3.Connection
    phase: str
    chosen: str
    keys: Sequence[Key]
    of: Mapping[int, int]

    @classmethod
    def select(
        cls, db: sqlite3.Connection, name: str, phase: str, by: Sequence[str], where: Mapping[str, str] | None
    ) -> Curves:
        """`where` keeps what has these labels; `by` are those that tell curves apart."""
        labels = "".join(f", {column(label)}" for label in by)
        filters = "".join(f" AND {column(label)} = ?" for label in where or {})
        rows = db.execute(
            f"SELECT id{labels} FROM series WHERE phase = ? AND name = ?{filters}",
            (phase, name, *(where or {}).values()),
        ).fetchall()
        keys: dict[Key, int] = {}
        of = {row[0]: keys.setdefault(tuple(row[1:]), len(keys)) for row in rows}
        return cls(db, phase, ", ".join(map(str, of)), list(keys), of)

    def read(self, since: int | None, until: int | None, points: int | None) -> dict[Key, list[Point]]:
        """Points rising in step; about `points` at most for each curve, if given."""
        low, high = min(max(since or 0, 0), _FOREVER), _FOREVER if until is None else min(until, _FOREVER)
        rows = self._rows(f"SELECT step FROM steps {_SPAN} ORDER BY step", self.phase, low, high)
        steps = np.array(rows, np.int64).reshape(-1)
        if not len(steps) or not self.of:
            return {}
        width = _width(steps, points)
        level = max(w for w in (1, *WIDTHS) if width % w == 0)
        if level > 1:
            # Whole closed buckets from the rollups; what sticks out at the ends point by point.
            first, end = -(-low // level), min(self._last(), high + 1) // level
            rows = self._points(low, min(first * level - 1, high))
            rows += self._rolled(level, first, end) + self._points(max(first, end) * level, high)
        else:
            rows = self._points(low, high)
        return self._merged(rows, width)

    def latest(self) -> dict[Key, Point]:
        """The last point of each curve, found through the rollups: curves may have ended long ago."""
        if not self.of or (last := self._last()) < 0:
            return {}
        begun = last // WIDTHS[0] * WIDTHS[0]
        rows = self._points(begun, last)
        for width, coarser in zip(WIDTHS, (*WIDTHS[1:], last + 1), strict=True):
            closed = last // coarser * coarser
            rows += self._rolled(width, closed // width, begun // width)
            begun = closed
        ends: dict[int, int] = {}
        for series, step, *_ in rows:
            ends[self.of[series]] = max(step, ends.get(self.of[series], 0))
        steps = ", ".join(map(str, sorted(set(ends.values()))))
        rows = self._rows(
            f"SELECT series, {MOMENTS} FROM points WHERE step IN ({steps}) AND series IN ({self.chosen})"
        )
        rows = [row for row in rows if row[1] == ends[self.of[row[0]]]]
        return {key: point for key, (point,) in self._merged(rows, 1).items()}

    def _merged(self, rows: Sequence[Any], width: int) -> dict[Key, list[Point]]:
        if not rows:
            return {}
        series, points = Points.of(rows)
        curves = np.zeros(max(self.of) + 1, np.int64)
        curves[list(self.of)] = list(self.of.values())
        curve = curves[series]
        bucket = points.step // width
        order = np.lexsort((bucket, curve))  # stable: equal ones stay in the order of their series
        curve, bucket = curve[order], bucket[order]
        starts = runs(curve, bucket)
        merged = points.take(order).merge(starts).points()
        owners = curve[starts]
        ends = [*runs(owners).tolist(), len(owners)]
        return {self.keys[owners[start]]: merged[start:end] for start, end in pairwise(ends)}

    def _points(self, low: int, high: int) -> list[Any]:
        if low > high:
            return []
        return self._rows(
            f"SELECT series, {MOMENTS} FROM points WHERE step IN (SELECT step FROM steps {_SPAN}) "
            f"AND series IN ({self.chosen})",
            self.phase, low, high,
        )  # fmt: skip

    def _rolled(self, width: int, first: int, end: int) -> list[Any]:
        """Of the buckets from `first` to before `end`."""
        if first >= end:
            return []
        return self._rows(
            f"SELECT series, {MOMENTS} FROM rollups WHERE width = {width} AND bucket IN "
            f"(SELECT DISTINCT step / {width} FROM steps {_SPAN}) AND series IN ({self.chosen})",
            self.phase, first * width, end * width - 1,
        )  # fmt: skip

    def _last(self) -> int:
        """The phase's last step, -1 if it has none."""
        return int(self._rows("SELECT coalesce(max(step), -1) FROM steps WHERE phase = ?", self.phase)[0][0])

    def _rows(self, sql: str, *values: object) -> list[Any]:
        return self.db.execute(sql, values).fetchall()


def column(label: str) -> str:
    """The SQL of a label's value."""
    if not re.fullmatch(r"\w+", label):
        raise ValueError(f"not a label: {label!r}")
    return label if label in COLUMNS else f"coalesce(json_extract(labels, '$.\"{label}\"'), '')"


def _width(steps: NDArray[np.int64], points: int | None) -> int:
    """The steps to a point: the coarsest rollup that gives a quarter of what is wanted, or single steps, and twice that
    until there are not too many. So no more than two rows for every point that is wanted are read where steps have no
    gaps, however long the run is."""
    if points is None or len(steps) <= points:
        return 1
    counts = {width: len(np.unique(steps // width)) for width in (1, *WIDTHS)}
    width = max(width for width, count in counts.items() if 4 * count >= points)
    while len(np.unique(steps // width)) > points:
        width *= 2
    return width
