"""The run's store: metrics and events in SQLite, rollouts in Parquet, pictures once by content hash.

    run_dir/metrics.sqlite                    series and points (read the view `metrics`), steps, events
    run_dir/rollouts/PHASE/00000012.parquet   one row per rollout
    run_dir/media/ab/abcd....png              the original bytes under their sha256

One process writes; any number read meanwhile, and none waits for another (SQLite's write-ahead log). A step is one
transaction: a reader, a kill or a full disk sees all of it or nothing. Logging a step again replaces it, so that
a run which resumes from a checkpoint may repeat steps.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from triune.core.errors import StorageError
from triune.core.sample import Media
from triune.monitor.disk import Claim, move, naming, write
from triune.monitor.metric import Metric, merge
from triune.monitor.rollouts import Rollout, from_parquet, to_parquet

SCHEMA_VERSION = 1
_SCHEMA = (
    """CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        phase TEXT NOT NULL, name TEXT NOT NULL,
        source TEXT NOT NULL, task TEXT NOT NULL, component TEXT NOT NULL, labels TEXT NOT NULL,
        UNIQUE (phase, name, source, task, component, labels))""",
    """CREATE TABLE points (
        series INTEGER NOT NULL REFERENCES series (id), step INTEGER NOT NULL,
        count INTEGER NOT NULL, mean REAL, std REAL, min REAL, max REAL, nonfinite INTEGER NOT NULL,
        PRIMARY KEY (series, step)) WITHOUT ROWID""",
    """CREATE VIEW metrics AS
        SELECT step, phase, name, source, task, component, labels, count, mean, std, min, max, nonfinite
        FROM points JOIN series ON series.id = points.series""",
    """CREATE TABLE steps (
        phase TEXT NOT NULL, step INTEGER NOT NULL, time REAL NOT NULL,
        PRIMARY KEY (phase, step)) WITHOUT ROWID""",
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        time REAL NOT NULL, step INTEGER NOT NULL, phase TEXT NOT NULL, kind TEXT NOT NULL,
        source TEXT NOT NULL, task TEXT NOT NULL, detail TEXT NOT NULL)""",
    "CREATE INDEX events_by_step ON events (step, phase)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_COLUMNS = ("source", "task", "component")
"""Labels with a column of their own; the others share the JSON column `labels`."""

_MAGIC = {
    b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """A metric at a step, merged over the labels that were not asked for.

    Moments as in `Metric`: the standard deviation is the population's, and all are NaN if no value was finite.
    """

    step: int
    count: int
    mean: float
    std: float
    min: float
    max: float
    nonfinite: int = 0

    def merge(self, other: Point) -> Point:
        """The point of both sets of values (Chan's update of mean and squared deviations)."""
        count = self.count + other.count
        nonfinite = self.nonfinite + other.nonfinite
        if not (self.count and other.count):
            known = self if self.count else other
            return Point(self.step, count, known.mean, known.std, known.min, known.max, nonfinite)
        apart, share = other.mean - self.mean, other.count / count
        variance = (1 - share) * self.std**2 + share * other.std**2 + share * (1 - share) * apart**2
        return Point(
            step=self.step,
            count=count,
            mean=self.mean + share * apart,
            std=math.sqrt(variance),
            min=min(self.min, other.min),
            max=max(self.max, other.max),
            nonfinite=nonfinite,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened once: a rollout was dropped (kind `drop`), the run resumed, a warning was given.

    `time` is in seconds since 1970; 0 stands for the time of logging.
    """

    kind: str
    detail: Mapping[str, JsonValue]
    step: int = 0
    phase: str = ""
    source: str = ""
    task: str = ""
    time: float = 0.0


class Store:
    """Opens the store of a run to write it, creating it if need be, or to read it. For one thread at a time.

    Every method raises StorageError, naming the file, when that cannot be read or written (full disk, permissions,
    another process writes it, another version); what was logged before stays as it was.
    """

    def __init__(self, run_dir: Path | str, *, readonly: bool = False) -> None:
        self.run_dir = Path(run_dir)
        self._path = self.run_dir / "metrics.sqlite"
        self._claim = None if readonly else Claim(self.run_dir)
        self._series: dict[tuple[str, ...], int] = {}  # what identifies a series -> its row
        self._kept: set[str] = set()  # hashes of pictures known to be on disk
        try:
            with naming(self._path, reading=readonly):
                self._db = _connect_readonly(self._path) if readonly else _connect(self._path)
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        with naming(self._path):
            if self._claim:
                for leftover in self.run_dir.glob("*/*/*.partial"):  # of a writer that was killed
                    leftover.unlink(missing_ok=True)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0 and self._claim:
                with self._transaction():
                    for statement in _SCHEMA:
                        self._db.execute(statement)
            elif version != SCHEMA_VERSION:
                raise StorageError(
                    f"{self._path} is version {version} of the store and this triune reads {SCHEMA_VERSION}; "
                    "open it with the triune that wrote it"
                )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process write. The last one to close folds the write-ahead log into the database."""
        if hasattr(self, "_db"):
            self._db.close()
        if self._claim:
            self._claim.release()

    # Writing

    def log_step(
        self,
        step: int,
        phase: str,
        metrics: Iterable[Metric],
        rollouts: Sequence[Rollout] = (),
        media: Iterable[Media] = (),
        events: Iterable[Event] = (),
    ) -> None:
        """Puts a step of a phase in place of what was there; `media` are the pictures that its rollouts name.

        Metrics of equal name and labels are merged. A phase is a short lower-case name such as `eval-before`.
        Raises DataError if a picture can no longer be read.
        """
        if step < 0 or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", phase):
            raise ValueError(f"not a step and a phase: {step}, {phase!r}")
        self._keep(media)
        file = self._rollout_file(phase, step)
        partial = file.with_suffix(".partial")
        if rollouts:
            write(partial, to_parquet(rollouts))
        try:
            with naming(self._path), self._transaction():
                self._forget("step = ? AND phase = ?", step, phase)
                self._db.execute("INSERT INTO steps VALUES (?, ?, ?)", (phase, step, time.time()))
                self._db.executemany(
                    "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [self._point_row(step, phase, metric) for metric in merge(metrics)],
                )
                self._insert_events(events)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        # Only now: had the commit failed for want of space, the step's earlier file would still be in place.
        if rollouts:
            move(partial, file)
        else:
            with naming(file):
                file.unlink(missing_ok=True)

    def log_event(self, event: Event) -> None:
        """Adds an event at once; one that belongs to a step and phase goes when that is logged again."""
        with naming(self._path), self._transaction():
            self._insert_events([event])

    def rewind(self, step: int) -> None:
        """Deletes everything after a step, in every phase, for a run that resumes from its checkpoint there.

        Pictures stay: they are shared between steps.
        """
        with naming(self._path), self._transaction():
            self._forget("step > ?", step)
        for file in self.run_dir.glob("rollouts/*/*.parquet"):
            if int(file.stem) > step:
                with naming(file):
                    file.unlink()

    # Reading

    def series(
        self,
        name: str,
        *,
        phase: str = "train",
        by: Sequence[str] = ("source",),
        where: Mapping[str, str] | None = None,
    ) -> dict[tuple[str, ...], list[Point]]:
        """A metric over steps: points rising in step for each combination of the labels in `by`.

        Over the other labels it is merged, value by value; `by=()` gives one series, under `()`. `where` keeps what
        has these labels, e.g. {"component": "boxes"}. A label that does not apply is ''.
        """
        keys = "".join(f", {_column(key)}" for key in by)
        filters = "".join(f" AND {_column(key)} = ?" for key in where or {})
        rows = self._query(
            f"SELECT step, count, mean, std, min, max, nonfinite{keys} FROM metrics "
            f"WHERE phase = ? AND name = ?{filters} ORDER BY step",
            phase, name, *(where or {}).values(),
        )  # fmt: skip
        found: dict[tuple[str, ...], list[Point]] = {}
        for step, count, mean, std, low, high, nonfinite, *key in rows:
            if not count:
                mean = std = low = high = math.nan
            point = Point(step, count, mean, std, low, high, nonfinite)
            points = found.setdefault(tuple(key), [])
            if points and points[-1].step == step:
                points[-1] = points[-1].merge(point)
            else:
                points.append(point)
        return found

    def latest(
        self,
        name: str,
        *,
        phase: str = "train",
        by: Sequence[str] = ("source",),
        where: Mapping[str, str] | None = None,
    ) -> dict[tuple[str, ...], Point]:
        """The last point of each series; sources may differ in the step at which they were last seen."""
        series = self.series(name, phase=phase, by=by, where=where)
        return {key: points[-1] for key, points in series.items()}

    def names(self, phase: str = "train") -> list[str]:
        """The names of a phase's metrics."""
        return [
            name
            for (name,) in self._query("SELECT DISTINCT name FROM series WHERE phase = ? ORDER BY 1", phase)
        ]

    def nonfinite(self, phase: str = "train") -> dict[str, list[int]]:
        """The metrics that were ever NaN or infinite, and the steps at which they were."""
        rows = self._query(
            "SELECT DISTINCT name, step FROM metrics WHERE phase = ? AND nonfinite > 0 ORDER BY name, step",
            phase,
        )
        found: dict[str, list[int]] = {}
        for name, step in rows:
            found.setdefault(name, []).append(step)
        return found

    def phases(self) -> list[str]:
        """The phases that were logged."""
        return [phase for (phase,) in self._query("SELECT DISTINCT phase FROM steps ORDER BY 1")]

    def steps(self, phase: str = "train") -> list[int]:
        """The steps of a phase that were logged, rising."""
        return [
            step for (step,) in self._query("SELECT step FROM steps WHERE phase = ? ORDER BY step", phase)
        ]

    def times(self, phase: str = "train") -> dict[int, float]:
        """When each step was logged, in seconds since 1970."""
        return dict(self._query("SELECT step, time FROM steps WHERE phase = ? ORDER BY step", phase))

    def events(self, kind: str | None = None) -> list[Event]:
        """All events, or those of one kind, in order of step and then of logging."""
        rows = self._query(
            "SELECT kind, detail, step, phase, source, task, time FROM events "
            "WHERE ?1 IS NULL OR kind = ?1 ORDER BY step, id",
            kind,
        )
        return [Event(kind, json.loads(detail), *rest) for kind, detail, *rest in rows]

    def rollout_steps(self, phase: str = "train") -> list[int]:
        """The steps whose rollouts were kept, rising."""
        return sorted(int(file.stem) for file in (self.run_dir / "rollouts" / phase).glob("*.parquet"))

    def rollouts(self, phase: str, step: int) -> list[Rollout]:
        """The rollouts of a step as they were logged; none if they were not kept."""
        file = self._rollout_file(phase, step)
        with naming(file, reading=True):
            return from_parquet(file) if file.exists() else []

    def media(self, sha256: str) -> Path | None:
        """Where the picture of this hash is; None if the run does not hold it (videos, pictures made by tools)."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ValueError(f"not a sha256: {sha256!r}")
        return next((self.run_dir / "media" / sha256[:2]).glob(f"{sha256}.*"), None)

    # Inside

    def _query(self, sql: str, *values: object) -> list[Any]:
        with naming(self._path, reading=True):
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._series.clear()  # it may name series that are now undone
            with contextlib.suppress(sqlite3.Error):  # SQLite has already rolled back on some errors
                self._db.execute("ROLLBACK")
            raise

    def _forget(self, condition: str, *values: object) -> None:
        for phase, step in self._query(f"SELECT phase, step FROM steps WHERE {condition}", *values):
            self._db.execute(
                "DELETE FROM points WHERE step = ? AND series IN (SELECT id FROM series WHERE phase = ?)",
                (step, phase),
            )
        self._db.execute(f"DELETE FROM steps WHERE {condition}", values)
        self._db.execute(f"DELETE FROM events WHERE {condition}", values)

    def _point_row(self, step: int, phase: str, metric: Metric) -> tuple[object, ...]:
        # SQLite's JSON functions stop reading at a NUL.
        rest = {
            k: value.replace("\0", "\N{REPLACEMENT CHARACTER}")
            for k, value in metric.labels
            if k not in _COLUMNS
        }
        key = (phase, metric.name, *map(metric.label, _COLUMNS), json.dumps(rest, ensure_ascii=False))
        if key not in self._series:
            found = self._db.execute(
                "SELECT id FROM series WHERE (phase, name, source, task, component, labels) = (?, ?, ?, ?, ?, ?)",
                key,
            ).fetchone()
            self._series[key] = found[0] if found else self._insert_series(key)
        moments = (metric.mean, metric.std, metric.min, metric.max) if metric.count else (None,) * 4
        return (self._series[key], step, metric.count, *moments, metric.nonfinite)

    def _insert_series(self, key: tuple[str, ...]) -> int:
        cursor = self._db.execute(
            "INSERT INTO series (phase, name, source, task, component, labels) VALUES (?, ?, ?, ?, ?, ?)", key
        )
        return int(cursor.lastrowid or 0)

    def _insert_events(self, events: Iterable[Event]) -> None:
        rows = [
            (e.time or time.time(), e.step, e.phase, e.kind, e.source, e.task, json.dumps(dict(e.detail)))
            for e in events
        ]
        self._db.executemany(
            "INSERT INTO events (time, step, phase, kind, source, task, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def _rollout_file(self, phase: str, step: int) -> Path:
        return self.run_dir / "rollouts" / phase / f"{step:08d}.parquet"

    def _keep(self, media: Iterable[Media]) -> None:
        for medium in media:
            if medium.kind != "image" or medium.sha256 in self._kept:
                continue
            data = medium.read()
            file = self.run_dir / "media" / medium.sha256[:2] / f"{medium.sha256}.{_extension(data)}"
            # Without waiting for the disk: thousands of small files would cost seconds a step, and one that a power
            # cut emptied is told by its size and written again.
            if not file.exists() or file.stat().st_size != len(data):
                partial = file.with_name(f".{file.name}.partial")
                write(partial, data, sync=False)
                with naming(file):
                    partial.replace(file)
            self._kept.add(medium.sha256)


def _connect(path: Path) -> sqlite3.Connection:
    # Autocommit mode: transactions are opened by hand, so that one step is exactly one.
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


def _connect_readonly(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise StorageError(f"{path} does not exist: not the directory of a run")
    uri = path.absolute().as_uri() + "?mode=ro"
    db = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # On a read-only disk SQLite cannot make the log's index; nobody can be writing there either.
        db.close()
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise  # ignoring the log would show less than was written
        db = sqlite3.connect(uri + "&immutable=1", uri=True, check_same_thread=False)
    return db


def _column(label: str) -> str:
    if not re.fullmatch(r"\w+", label):
        raise ValueError(f"not a label: {label!r}")
    return label if label in _COLUMNS else f"coalesce(json_extract(labels, '$.\"{label}\"'), '')"


def _extension(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "bin")
