"""Moments of every series over buckets of 8, 32, 128 and 512 steps: what a long curve is drawn from.

A bucket is closed once its phase has a step in a later one. So whatever lies before the last step's bucket is rolled
up, and what follows is read point by point: `series` reads both, and never needs to know when a bucket was closed.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import numpy as np

from triune.monitor.points import MOMENTS, Points, runs

WIDTHS = (8, 32, 128, 512)
"""Steps to a bucket; each is a multiple of the one before."""

_MINE = "series IN (SELECT id FROM series WHERE phase = ?)"


def logged(db: sqlite3.Connection, phase: str, step: int, before: int | None) -> None:
    """To be called when a step was logged: closes or mends buckets. `before` is the phase's last step until then."""
    for level, width in enumerate(WIDTHS):
        bucket, last = step // width, -1 if before is None else before // width
        if bucket > last >= 0:
            _build(db, phase, level, last)
        elif bucket < last:
            _build(db, phase, level, bucket)


def rewound(db: sqlite3.Connection, step: int) -> None:
    """To be called when everything after a step was deleted."""
    for width in WIDTHS:
        db.execute("DELETE FROM rollups WHERE width = ? AND bucket >= ?", (width, step // width))


def build(db: sqlite3.Connection, phase: str, last: int) -> None:
    """All closed buckets of a phase whose last step is `last`."""
    for level, width in enumerate(WIDTHS):
        buckets = db.execute("SELECT DISTINCT step / ? FROM steps WHERE phase = ?", (width, phase)).fetchall()
        for (bucket,) in buckets:
            if bucket < last // width:
                _build(db, phase, level, bucket)


def _build(db: sqlite3.Connection, phase: str, level: int, bucket: int) -> None:
    width = WIDTHS[level]
    db.execute(f"DELETE FROM rollups WHERE width = ? AND bucket = ? AND {_MINE}", (width, bucket, phase))
    if level:
        finer = WIDTHS[level - 1]
        rows: list[Any] = db.execute(
            f"SELECT series, {MOMENTS} FROM rollups WHERE width = ? AND bucket >= ? AND bucket < ? AND {_MINE}",
            (finer, bucket * width // finer, (bucket + 1) * width // finer, phase),
        ).fetchall()
    else:
        rows = db.execute(
            f"SELECT series, {MOMENTS} FROM points WHERE step >= ? AND step < ? AND {_MINE}",
            (bucket * width, (bucket + 1) * width, phase),
        ).fetchall()
    if not rows:
        return
    series, points = Points.of(rows)
    order = np.argsort(series, kind="stable")
    starts = runs(series[order])
    merged = points.take(order).merge(starts)
    db.executemany(
        "INSERT INTO rollups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (width, bucket, one, *row)
            for one, row in zip(series[order][starts].tolist(), merged.rows(), strict=True)
        ],
    )
