"""The tables of a run's `metrics.sqlite`, and how a database of an older version becomes one of this version.

`PRAGMA user_version` says which version a file is. Migration n turns version n into n + 1; a new file is made by all of
them, so that there is one way only to come to a schema. To write, a file is migrated in one transaction; to read, an
older file is copied into memory and migrated there.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from triune.core.errors import StorageError
from triune.monitor import rollups

Migration = Callable[[sqlite3.Connection, Path], None]
"""Changes the tables of a database by one version, given the run's folder."""


def _metrics(db: sqlite3.Connection, run_dir: Path) -> None:
    _run(
        db,
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
    )


def _points_by_step_and_rollouts(db: sqlite3.Connection, run_dir: Path) -> None:
    """Points in the order in which they come, so that writing a step appends to the file; rollups of them; rollouts."""
    moments = "count INTEGER NOT NULL, mean REAL, std REAL, min REAL, max REAL, nonfinite INTEGER NOT NULL"
    _run(
        db,
        "DROP VIEW metrics",
        "ALTER TABLE points RENAME TO old",
        # std, min and max are NULL where all values were equal (nearly always: where there was one).
        f"""CREATE TABLE points (
            step INTEGER NOT NULL, series INTEGER NOT NULL REFERENCES series (id), {moments},
            PRIMARY KEY (step, series)) WITHOUT ROWID""",
        """INSERT INTO points
            SELECT step, series, count, mean, iif(min < max, std, NULL), iif(min < max, min, NULL),
                iif(min < max, max, NULL), nonfinite
            FROM old ORDER BY step, series""",
        "DROP TABLE old",
        "CREATE INDEX points_not_finite ON points (series, step) WHERE nonfinite > 0",
        f"""CREATE TABLE rollups (
            width INTEGER NOT NULL, bucket INTEGER NOT NULL, series INTEGER NOT NULL REFERENCES series (id),
            step INTEGER NOT NULL, {moments},
            PRIMARY KEY (width, bucket, series)) WITHOUT ROWID""",
        # Through `steps`, so that one metric is looked up step by step instead of reading all points.
        """CREATE VIEW metrics AS
            SELECT points.step, series.phase, name, source, task, component, labels, count, mean,
                coalesce(std, iif(count, 0.0, NULL)) AS std, coalesce(min, mean) AS min,
                coalesce(max, mean) AS max, nonfinite
            FROM series JOIN steps ON steps.phase = series.phase
            JOIN points ON points.step = steps.step AND points.series = series.id""",
        "CREATE INDEX events_by_kind ON events (kind, step)",
        # A sample without content was logged by an older version. `sha` is that of its content, '' without.
        """CREATE TABLE samples (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL, source TEXT NOT NULL, task TEXT NOT NULL, sha TEXT NOT NULL, content TEXT,
            UNIQUE (name, source, task, sha))""",
        "CREATE INDEX samples_by_content ON samples (sha) WHERE content IS NOT NULL",
        # `rows` is NULL of a file that is yet to be indexed, `problem` says why that failed.
        """CREATE TABLE shards (
            step INTEGER NOT NULL, phase TEXT NOT NULL, rows INTEGER, bytes INTEGER, checksum INTEGER, problem TEXT,
            PRIMARY KEY (step, phase)) WITHOUT ROWID""",
        # id is NULL where it is SAMPLE#RANK, group where it is the sample's name, component where it is `policy`.
        """CREATE TABLE rollout_index (
            step INTEGER NOT NULL, phase TEXT NOT NULL, row INTEGER NOT NULL,
            sample INTEGER NOT NULL REFERENCES samples (id), rank INTEGER NOT NULL, id TEXT, "group" TEXT,
            component TEXT, reward REAL, accuracy REAL, correct INTEGER, status TEXT NOT NULL, ending TEXT NOT NULL,
            length INTEGER NOT NULL, advantage REAL, components TEXT NOT NULL,
            PRIMARY KEY (step, phase, row)) WITHOUT ROWID""",
        "CREATE INDEX rollouts_by_sample ON rollout_index (sample, step, phase, row)",
        """CREATE VIEW rollouts AS
            SELECT step, phase, row, coalesce(r.id, name || '#' || rank) AS id, name AS sample, sha AS sample_sha,
                source, task, coalesce("group", name) AS "group", rank, coalesce(component, 'policy') AS component,
                reward, accuracy, correct, status, ending, length, advantage, components
            FROM rollout_index AS r JOIN samples ON samples.id = r.sample""",
        "CREATE TABLE vocabulary (id INTEGER PRIMARY KEY, piece TEXT NOT NULL)",
        "CREATE TABLE changes (id INTEGER PRIMARY KEY CHECK (id = 0), count INTEGER NOT NULL)",
        "INSERT INTO changes VALUES (0, 0)",
    )
    for phase, last in db.execute("SELECT phase, max(step) FROM steps GROUP BY phase").fetchall():
        rollups.build(db, phase, last)
    files = [file for file in run_dir.glob("rollouts/*/*.parquet") if re.fullmatch(r"\d+", file.stem)]
    db.executemany(
        "INSERT INTO shards (step, phase) VALUES (?, ?)",
        [(int(file.stem), file.parent.name) for file in files],
    )


MIGRATIONS: tuple[Migration, ...] = (_metrics, _points_by_step_and_rollouts)
VERSION = len(MIGRATIONS)


def to_write(path: Path) -> sqlite3.Connection:
    """Opens a run's database to write, made or migrated if need be. The caller holds the run's claim."""
    # Autocommit mode: transactions are opened by hand, so that one step is exactly one.
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        if (version := _version(db, path)) < VERSION:
            db.execute("PRAGMA journal_mode = WAL")
            _migrate(db, version, path.parent)
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def to_read(path: Path) -> sqlite3.Connection:
    """Opens a run's database to read; of an older version, a copy in memory as it is now."""
    if not path.exists():
        raise StorageError(f"{path} does not exist: not the directory of a run")
    db = _connect_readonly(path)
    try:
        version = _version(db, path)
        if version == 0:
            raise StorageError(f"{path} is empty: the run has not begun, or ended before its first step")
        if version == VERSION:
            return db
        with closing(db):
            copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            db.backup(copy)
        _migrate(copy, version, path.parent)
        return copy
    except BaseException:
        db.close()
        raise


def _version(db: sqlite3.Connection, path: Path) -> int:
    """Raises StorageError for a file that is no run's, or a newer one's."""
    try:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # of the disk or of a lock, and not of the file
        raise StorageError(f"{path} is damaged, or no SQLite database: {error}") from error
    if version > VERSION:
        raise StorageError(
            f"{path} is version {version} of the store and this triune knows {VERSION}: update triune, or open it with "
            "the triune that wrote it"
        )
    expected = {"series", "points", "steps", "events"} if version else set()
    if version < 0 or not expected <= tables or (tables and not version):
        raise StorageError(
            f"{path} is an SQLite database, but not of a run: version {version}, tables {', '.join(sorted(tables)) or '(none)'}"
        )
    return version


def _migrate(db: sqlite3.Connection, version: int, run_dir: Path) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        for number in range(version, VERSION):
            MIGRATIONS[number](db, run_dir)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _connect_readonly(path: Path) -> sqlite3.Connection:
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
        db = sqlite3.connect(uri + "&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    except sqlite3.DatabaseError:
        pass  # said by whoever asks for the version
    return db


def _run(db: sqlite3.Connection, *statements: str) -> None:
    for statement in statements:
        db.execute(statement)
