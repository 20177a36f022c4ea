"""Databases of older versions become this one, others are refused, and each error says what the file is."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from triune.core.errors import StorageError
from triune.monitor import rollups, schema
from triune.monitor.metric import Metric, scalar
from triune.monitor.rollouts import Rollout, to_parquet
from triune.monitor.store import Query, Store

from .making import make_scored

VERSION_1 = """
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    phase TEXT NOT NULL, name TEXT NOT NULL,
    source TEXT NOT NULL, task TEXT NOT NULL, component TEXT NOT NULL, labels TEXT NOT NULL,
    UNIQUE (phase, name, source, task, component, labels));
CREATE TABLE points (
    series INTEGER NOT NULL REFERENCES series (id), step INTEGER NOT NULL,
    count INTEGER NOT NULL, mean REAL, std REAL, min REAL, max REAL, nonfinite INTEGER NOT NULL,
    PRIMARY KEY (series, step)) WITHOUT ROWID;
CREATE VIEW metrics AS
    SELECT step, phase, name, source, task, component, labels, count, mean, std, min, max, nonfinite
    FROM points JOIN series ON series.id = points.series;
CREATE TABLE steps (
    phase TEXT NOT NULL, step INTEGER NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (phase, step)) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL, step INTEGER NOT NULL, phase TEXT NOT NULL, kind TEXT NOT NULL,
    source TEXT NOT NULL, task TEXT NOT NULL, detail TEXT NOT NULL);
CREATE INDEX events_by_step ON events (step, phase);
PRAGMA user_version = 1;
"""
"""The schema as it was released with version 1."""
STEPS = 100


def metrics(step: int) -> list[Metric]:
    return [
        Metric.of("reward", [0.0, step], source="a", task="x"),
        Metric.of("reward", [step] * 3, source="b", task="x"),
        Metric.of("reflection/word", [float(step)], source="a", word="wait"),
        scalar("loss", float("nan") if step == 50 else 1 / step),
    ]


def written_by_version_1(run_dir: Path) -> None:
    """A run of that schema, with the rollouts of three steps in files as they were then."""
    run_dir.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(run_dir / "metrics.sqlite")) as db:
        db.executescript(VERSION_1)
        for step in range(1, STEPS + 1):
            db.execute("INSERT INTO steps VALUES ('train', ?, ?)", (step, 1e9 + step))
            for metric in metrics(step):
                rest = json.dumps(
                    {k: v for k, v in metric.labels if k not in ("source", "task", "component")}
                )
                key = ("train", metric.name, *map(metric.label, ("source", "task", "component")), rest)
                db.execute(
                    "INSERT OR IGNORE INTO series (phase, name, source, task, component, labels) "
                    "VALUES (?, ?, ?, ?, ?, ?)", key,
                )  # fmt: skip
                (series,) = db.execute(
                    "SELECT id FROM series WHERE (phase, name, source, task, component, labels) = (?, ?, ?, ?, ?, ?)", key
                ).fetchone()  # fmt: skip
                moments = (metric.mean, metric.std, metric.min, metric.max) if metric.count else (None,) * 4
                db.execute(
                    "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (series, step, metric.count, *moments, metric.nonfinite),
                )
        db.execute(
            "INSERT INTO events VALUES (1, 1e9, 3, 'train', 'drop', 'a', 'x', '{\"reason\": \"timeout\"}')"
        )
        db.commit()
    folder = run_dir / "rollouts" / "train"
    folder.mkdir(parents=True)
    for step in (1, 2, 3):
        table = pq.read_table(io.BytesIO(to_parquet([Rollout.of(step, "train", make_scored(step / 4))])))
        pq.write_table(
            table.drop_columns(["events", "token_advantage", "sample_sha"]), folder / f"{step:08d}.parquet"
        )


def written_now(run_dir: Path) -> None:
    with Store(run_dir) as store:
        for step in range(1, STEPS + 1):
            store.log_step(step, "train", metrics(step))


@pytest.mark.parametrize("readonly", [True, False])
def test_a_run_of_version_1_is_read_as_one_of_today(tmp_path: Path, readonly: bool) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    written_by_version_1(old)
    written_now(new)
    before = (old / "metrics.sqlite").read_bytes()
    with Store(old, readonly=readonly) as was, Store(new, readonly=True) as now:
        for points in (None, 40, 5):
            for name, by in (
                ("reward", ("source",)),
                ("reward", ()),
                ("reflection/word", ("word",)),
                ("loss", ()),
            ):
                then, here = (store.series(name, by=by, points=points) for store in (was, now))
                assert repr(then) == repr(here), (name, points)
        assert was.latest("reward") == now.latest("reward")
        assert was.nonfinite() == {"loss": [50]}
        assert was.times()[3] == 1e9 + 3
        assert [event.detail for event in was.events("drop")] == [{"reason": "timeout"}]
        assert was.rollout_steps() == [1, 2, 3]
        assert [row.step for row in was.find(Query()).rows] == [3, 2, 1]
        assert [row.step for row in was.find(Query(reward=(0.5, None), text="boxed")).rows] == [3, 2]
        (one,) = was.rollouts("train", 3)
        assert (one.sample_sha, one.events, one.token_advantage) == ("", (), None)
        assert was.sample("") is None
        if not readonly:
            was.log_step(STEPS + 1, "train", metrics(STEPS + 1))
            was.rewind(2)
            assert was.steps() == was.rollout_steps() == [1, 2]
    if readonly:
        assert (old / "metrics.sqlite").read_bytes() == before
    else:
        with Store(old, readonly=True) as again:
            assert again.rollout_steps() == [1, 2]


def test_a_damaged_file_of_an_older_run_is_noted(tmp_path: Path) -> None:
    written_by_version_1(tmp_path)
    (tmp_path / "rollouts" / "train" / "00000002.parquet").write_bytes(b"PAR1 not really")
    for readonly in (True, False):
        with Store(tmp_path, readonly=readonly) as store:
            page = store.find(Query())
            assert [row.step for row in page.rows] == [3, 1]
            (problem,) = page.problems
            assert "00000002.parquet" in problem
            with pytest.raises(StorageError, match=r"00000002\.parquet"):
                store.rollouts("train", 2)


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by_version_1(tmp_path)

    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(rollups, "build", fail)
        with pytest.raises(RuntimeError):
            Store(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.sqlite")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM points").fetchone() == (4 * STEPS,)
    with Store(tmp_path) as store:
        assert len(store.steps()) == STEPS


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.sqlite")) as db:
        db.execute("PRAGMA user_version = 99")
    for readonly in (True, False):
        with pytest.raises(
            StorageError,
            match=rf"metrics\.sqlite is version 99 of the store .* knows {schema.VERSION}: update",
        ):
            Store(tmp_path, readonly=readonly)


def foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE songs (title TEXT)")


def pretender(path: Path) -> None:
    foreign(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")


def damaged(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 40)


def truncated(path: Path) -> None:
    with Store(path.parent) as store:
        store.log_step(1, "train", metrics(1))
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (foreign, "not of a run: version 0, tables songs"),
        (pretender, "not of a run: version 2, tables songs"),
        (damaged, "damaged, or no SQLite database"),
        (truncated, "damaged, or no SQLite database"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_run_is_named_and_left_alone(
    tmp_path: Path, make: object, says: str, readonly: bool
) -> None:
    path = tmp_path / "metrics.sqlite"
    assert callable(make)
    make(path)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=says) as error:
        Store(tmp_path, readonly=readonly)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before


def test_an_empty_file_is_begun_by_a_writer_and_explained_to_a_reader(tmp_path: Path) -> None:
    (tmp_path / "metrics.sqlite").touch()
    with pytest.raises(StorageError, match="is empty: the run has not begun"):
        Store(tmp_path, readonly=True)
    written_now(tmp_path)
    with Store(tmp_path, readonly=True) as store:
        assert len(store.steps()) == STEPS
