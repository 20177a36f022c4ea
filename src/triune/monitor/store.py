"""The run's store: metrics and events in SQLite, rollouts in Parquet, pictures once by content hash.

    run_dir/metrics.sqlite                    the tables of schema.py: metrics, events, samples, an index of rollouts
    run_dir/rollouts/PHASE/00000012.parquet   one row per rollout
    run_dir/media/ab/abcd....png              the original bytes under their sha256

One process writes; any number read meanwhile, and none waits for another (SQLite's write-ahead log). A step is one
transaction: a reader, a kill or a full disk sees all of it or nothing. Logging a step again replaces it, so that
a run which resumes from a checkpoint may repeat steps.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from triune.core.sample import Media, Sample
from triune.monitor import index, rollups, samples, schema
from triune.monitor.curves import COLUMNS, Curves
from triune.monitor.disk import Claim, naming
from triune.monitor.index import Page, Query
from triune.monitor.metric import Labels, Metric, merge
from triune.monitor.pictures import Pictures
from triune.monitor.points import Point, remade
from triune.monitor.rollouts import Rollout, from_parquet, to_parquet
from triune.monitor.shards import Shards

__all__ = ["Event", "Page", "Point", "Query", "Store"]

_EQUAL = "INSERT INTO points (series, step, count, nonfinite, mean) VALUES (?, ?, ?, ?, ?)"
_SPREAD = (
    "INSERT INTO points (series, step, count, nonfinite, mean, std, min, max) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
"""Of values that were all equal the mean says all, and most are: a step has over a thousand of them."""


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
        self._series: dict[tuple[str, str, Labels], int] = {}  # phase, name and labels -> its row
        self._pictures = Pictures(self.run_dir)
        self._known: set[str] = set()  # hashes of samples known to be in the database
        try:
            with naming(self._path, reading=readonly):
                self._db = schema.to_read(self._path) if readonly else schema.to_write(self._path)
                self._shards = Shards(self.run_dir, self._db)
                if self._claim:
                    self._shards.tidy()
                    self._pictures.tidy()
                    self._index()
        except BaseException:
            self.close()
            raise

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
        samples: Iterable[Sample] = (),
        pieces: Mapping[int, str] | None = None,
    ) -> None:
        """Puts a step of a phase in place of what was there.

        `media` are the pictures and `samples` the samples that its rollouts name; `pieces` adds to the vocabulary, the
        text of token ids. Metrics of equal name and labels are merged. A phase is a short lower-case name such as
        `eval-before`. Raises DataError if a picture can no longer be read.
        """
        if step < 0 or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", phase):
            raise ValueError(f"not a step and a phase: {step}, {phase!r}")
        self._pictures.keep(media)
        shard = to_parquet(rollouts) if rollouts else b""
        if rollouts:
            self._shards.prepare(phase, step, shard)
        committed = False
        try:
            with naming(self._path), self._transaction():
                before = self._query("SELECT max(step) FROM steps WHERE phase = ?", phase)[0][0]
                self._forget("step = ? AND phase = ?", step, phase)
                self._db.execute("INSERT INTO steps VALUES (?, ?, ?)", (phase, step, time.time()))
                self._insert_points(step, phase, list(metrics))
                rollups.logged(self._db, phase, step, before)
                self._insert_events(events)
                self._insert_samples(samples)
                self._db.executemany(
                    "INSERT OR REPLACE INTO vocabulary VALUES (?, ?)", (pieces or {}).items()
                )
                if rollouts:
                    # By the step and phase that are logged, whatever the rows say.
                    index.insert(self._db, step, phase, rollouts)
                    self._shards.name(phase, step, len(rollouts), shard)
            committed = True
        finally:
            # Only now: had the commit failed for want of space, the step's earlier file would still be in place.
            self._shards.settle(phase, step, committed)

    def log_event(self, event: Event) -> None:
        """Adds an event at once; one that belongs to a step and phase goes when that is logged again."""
        with naming(self._path), self._transaction():
            self._insert_events([event])

    def rewind(self, step: int) -> None:
        """Deletes everything after a step, in every phase, for a run that resumes from its checkpoint there.

        Pictures, samples and the vocabulary stay: they are shared between steps.
        """
        with naming(self._path), self._transaction():
            self._forget("step > ?", step)
            rollups.rewound(self._db, step)
        self._shards.drop_after(step)

    # Reading

    @property
    def version(self) -> int:
        """A number that is another one as soon as anything was committed, by whichever process. Of a run that an older
        triune wrote, what is read is a copy, and the number stands still."""
        return int(self._query("SELECT count FROM changes")[0][0])

    def series(
        self,
        name: str,
        *,
        phase: str = "train",
        by: Sequence[str] = ("source",),
        where: Mapping[str, str] | None = None,
        since: int | None = None,
        until: int | None = None,
        points: int | None = None,
    ) -> dict[tuple[str, ...], list[Point]]:
        """A metric over steps: points rising in step for each combination of the labels in `by`.

        Over the other labels it is merged, value by value; `by=()` gives one series, under `()`. `where` keeps what
        has these labels, e.g. {"component": "boxes"}. A label that does not apply is ''. `since` and `until` are the
        first and the last step that are read. `points` is how many per series are wanted at most: more are merged over
        runs of steps, each then standing at its last step.
        """
        if points is not None and points < 1:
            raise ValueError(f"a series has at least one point, not {points}")
        with self._reading():
            return Curves.select(self._db, name, phase, by, where).read(since, until, points)

    def latest(
        self,
        name: str,
        *,
        phase: str = "train",
        by: Sequence[str] = ("source",),
        where: Mapping[str, str] | None = None,
    ) -> dict[tuple[str, ...], Point]:
        """The last point of each series; sources may differ in the step at which they were last seen."""
        with self._reading():
            return Curves.select(self._db, name, phase, by, where).latest()

    def names(self, phase: str = "train") -> list[str]:
        """The names of a phase's metrics."""
        return [
            name
            for (name,) in self._query("SELECT DISTINCT name FROM series WHERE phase = ? ORDER BY 1", phase)
        ]

    def nonfinite(self, phase: str = "train") -> dict[str, list[int]]:
        """The metrics that were ever NaN or infinite, and the steps at which they were."""
        rows = self._query(
            "SELECT DISTINCT name, step FROM points JOIN series ON series.id = points.series "
            "WHERE nonfinite > 0 AND phase = ? ORDER BY name, step",
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

    def metrics(self, phase: str, step: int) -> list[Metric]:
        """The metrics of a step as they were logged, merged where names and labels were equal."""
        rows = self._query(
            "SELECT name, source, task, component, labels, count, mean, std, min, max, nonfinite "
            "FROM metrics WHERE phase = ? AND step = ? ORDER BY name, source, task, component, labels",
            phase,
            step,
        )
        return [
            remade(
                name,
                {**dict(zip(COLUMNS, (source, task, component), strict=True)), **json.loads(labels)},
                *moments,
            )
            for name, source, task, component, labels, *moments in rows
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
        with naming(self._path, reading=True):
            return self._shards.steps(phase)

    def rollout_files(self) -> dict[Path, tuple[str, int]]:
        """Where the rollouts of each phase and step belong that were kept, be the file there or not."""
        with naming(self._path, reading=True):
            return self._shards.files()

    def rollouts(self, phase: str, step: int) -> list[Rollout]:
        """The rollouts of a step as they were logged; none if they were not kept. Raises StorageError if they were, and
        their file is gone or damaged."""
        with naming(self._path, reading=True):
            return self._shards.read(phase, step, from_parquet) if self._shards.has(phase, step) else []

    def find(self, query: Query) -> Page:
        """A page of rollouts; see `Query`. Files are opened for a search in texts only."""
        with naming(self._path, reading=True):
            self._index()  # a copy of an older run in memory, at the first search
            return index.find(self._db, self._shards, query)

    def pass_rates(self, phase: str = "train") -> dict[str, index.PassRates]:
        """By source, over the whole run, of the rollouts that are kept."""
        with naming(self._path, reading=True):
            self._index()
            with self._reading():
                return index.pass_rates(self._db, phase)

    def seen(self, source: str = "", limit: int = 50, before: int | None = None) -> list[index.Seen]:
        """The samples whose rollouts are kept, each once, the newest first; see `index.seen`."""
        with naming(self._path, reading=True):
            self._index()
            return index.seen(self._db, source, limit, before)

    def sample(self, sha: str) -> Sample | None:
        """The whole sample of a `Rollout.sample_sha`; None if it was not kept. Its pictures are those of this run: to read
        one that is gone raises DataError."""
        found = self._query("SELECT content FROM samples WHERE sha = ? AND content IS NOT NULL LIMIT 1", sha)
        return samples.restore(found[0][0], self._pictures.place) if found else None

    def pieces(self, ids: Iterable[int]) -> dict[int, str]:
        """The text of token ids, of those that are known."""
        wanted = json.dumps(sorted({int(id) for id in ids}))
        return dict(
            self._query(
                "SELECT id, piece FROM vocabulary WHERE id IN (SELECT value FROM json_each(?))", wanted
            )
        )

    def media(self, sha256: str) -> Path | None:
        """Where the picture of this hash is; None if the run does not hold it (videos)."""
        return self._pictures.find(sha256)

    # Inside

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What several statements read is of one moment."""
        with naming(self._path, reading=True):
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("COMMIT")

    def _index(self) -> None:
        """Indexes the rollouts of a run that an older version wrote."""
        if self._query("SELECT 1 FROM shards WHERE rows IS NULL LIMIT 1"):
            with naming(self._path), self._transaction():
                index.complete(self._db, self._shards)

    def _query(self, sql: str, *values: object) -> list[Any]:
        with naming(self._path, reading=True):
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("UPDATE changes SET count = count + 1")
            self._db.execute("COMMIT")
        except BaseException:
            self._series.clear()  # they may name rows that are now undone
            self._known.clear()
            with contextlib.suppress(sqlite3.Error):  # SQLite has already rolled back on some errors
                self._db.execute("ROLLBACK")
            raise

    def _forget(self, condition: str, *values: object) -> None:
        """Deletes steps and what belongs to them; rollups are up to the caller."""
        for phase, step in self._query(f"SELECT phase, step FROM steps WHERE {condition}", *values):
            self._db.execute(
                "DELETE FROM points WHERE step = ? AND series IN (SELECT id FROM series WHERE phase = ?)",
                (step, phase),
            )
        for table in ("steps", "events", "shards", "rollout_index"):
            self._db.execute(f"DELETE FROM {table} WHERE {condition}", values)

    def _insert_points(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        series = [self._series_of(phase, metric) for metric in metrics]
        if len(set(series)) < len(series):
            metrics = merge(metrics)
            series = [self._series_of(phase, metric) for metric in metrics]
        equal: list[tuple[object, ...]] = []
        spread: list[tuple[object, ...]] = []
        for number, metric in zip(series, metrics, strict=True):
            low, high, count = metric.min, metric.max, metric.count
            if low == high:  # and so is their mean; it is no -0.0
                equal.append((number, step, count, metric.nonfinite, low + 0.0))
            elif count:
                moments = metric.mean, metric.std, low, high
                spread.append((number, step, count, metric.nonfinite, *moments))
            else:
                equal.append((number, step, 0, metric.nonfinite, None))
        self._db.executemany(_EQUAL, equal)
        self._db.executemany(_SPREAD, spread)

    def _series_of(self, phase: str, metric: Metric) -> int:
        key = (phase, metric.name, metric.labels)
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = self._find_series(phase, metric)
        return found

    def _find_series(self, phase: str, metric: Metric) -> int:
        # SQLite's JSON functions stop reading at a NUL.
        rest = {
            k: value.replace("\0", "\N{REPLACEMENT CHARACTER}")
            for k, value in metric.labels
            if k not in COLUMNS
        }
        key = (phase, metric.name, *map(metric.label, COLUMNS), json.dumps(rest, ensure_ascii=False))
        found = self._query(
            "SELECT id FROM series WHERE (phase, name, source, task, component, labels) = (?, ?, ?, ?, ?, ?)",
            *key,
        )
        return int(found[0][0]) if found else self._insert_series(key)

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

    def _insert_samples(self, given: Iterable[Sample]) -> None:
        for sample in given:
            sha = samples.sha(sample)
            if sha in self._known:
                continue
            self._db.execute(
                "INSERT INTO samples (name, source, task, sha, content) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET content = excluded.content WHERE content IS NULL",
                (sample.id, sample.source, sample.task, sha, samples.content(sample)),
            )
            self._known.add(sha)
