from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from triune.core.errors import DataError, StorageError
from triune.core.sample import Media, Message, Picture
from triune.core.verdict import Call
from triune.data.saved import _together
from triune.monitor.metric import Metric, scalar
from triune.monitor.rollouts import Rollout, from_parquet, to_parquet
from triune.monitor.store import Event, Query, Store

from .making import make_sample, make_scored, picture


def log(store: Store, step: int, phase: str = "train", value: float = 1.0, rollouts: bool = True) -> None:
    """A step with one metric per source and one rollout."""
    one = make_scored(value)
    store.log_step(
        step,
        phase,
        [Metric.of("reward", [value], source=source, task="t") for source in ("a", "b")],
        rollouts=[Rollout.of(step, phase, one, advantage=0.5)] if rollouts else [],
        media=one.sample.media,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as store:
        yield store


def test_series_by_labels(store: Store) -> None:
    for step in (1, 2):
        store.log_step(
            step,
            "train",
            [
                Metric.of("reward", [0.0, step], source="a", task="x"),
                Metric.of("reward", [4.0], source="b", task="x"),
                Metric.of("reflection/word", [3.0], source="a", word="wait"),
                Metric.of("reflection/word", [5.0], source="a", word="yet"),
                scalar("loss", 0.25),
            ],
        )
    by_source = store.series("reward")
    assert [(p.step, p.mean) for p in by_source["a",]] == [(1, 0.5), (2, 1.0)]
    assert by_source["b",][0].std == 0.0
    ((key, points),) = store.series("reward", by=()).items()
    assert key == ()
    direct = np.array([0.0, 2.0, 4.0])
    assert (points[1].count, points[1].min, points[1].max) == (3, 0.0, 4.0)
    assert points[1].mean == pytest.approx(direct.mean())
    assert points[1].std == pytest.approx(direct.std())
    assert store.series("reward", by=("task", "source")).keys() == {("x", "a"), ("x", "b")}
    assert {key: p.mean for key, p in store.latest("reflection/word", by=("word",)).items()} == {
        ("wait",): 3.0,
        ("yet",): 5.0,
    }
    assert store.latest("reflection/word", by=(), where={"word": "yet"})[()].mean == 5.0
    assert store.latest("loss")["",].mean == 0.25
    assert store.series("nothing") == {}
    assert store.series("reward", phase="eval") == {}
    assert store.names() == ["loss", "reflection/word", "reward"]
    assert (store.phases(), store.steps()) == (["train"], [1, 2])
    assert all(abs(time.time() - when) < 60 for when in store.times().values())


def test_labels_are_names_not_sql(store: Store) -> None:
    with pytest.raises(ValueError, match="not a label"):
        store.series("reward", by=('x"; DROP TABLE points; --',))
    store.log_step(1, "train", [scalar("x", 1.0, source="'; DROP TABLE points; --")])
    assert store.series("x").keys() == {("'; DROP TABLE points; --",)}


def test_values_that_were_not_finite(store: Store) -> None:
    store.log_step(1, "train", [scalar("loss", math.nan, source="a"), scalar("loss", 2.0, source="b")])
    assert math.isnan(store.latest("loss")["a",].mean)
    merged = store.latest("loss", by=())[()]
    assert (merged.mean, merged.count, merged.nonfinite) == (2.0, 1, 1)


def test_logging_a_step_again_replaces_it(store: Store) -> None:
    log(store, 1, value=1.0)
    log(store, 1, "eval", value=1.0)
    log(store, 1, value=0.0)
    assert [p.mean for p in store.series("reward")["a",]] == [0.0]
    assert [r.reward for r in store.rollouts("train", 1)] == [pytest.approx(0.1)]
    assert [p.mean for p in store.series("reward", phase="eval")["a",]] == [1.0]
    log(store, 1, rollouts=False)
    assert store.rollouts("train", 1) == []
    assert store.rollout_steps() == []


def test_equal_metrics_of_one_step_are_merged(store: Store) -> None:
    store.log_step(1, "train", [scalar("loss", 1.0), scalar("loss", 3.0)])
    assert store.latest("loss", by=())[()].mean == 2.0


def test_rewind_forgets_what_came_after(store: Store) -> None:
    log(store, 0, "eval-before")
    for step in (1, 2, 3):
        log(store, step)
        store.log_event(Event("note", {"step": step}, step))
    log(store, 2, "eval")
    log(store, 3, "eval")
    store.rewind(2)
    assert store.steps() == store.rollout_steps() == [1, 2]
    assert store.steps("eval") == store.rollout_steps("eval") == [2]
    assert store.steps("eval-before") == [0]
    assert [event.step for event in store.events("note")] == [1, 2]
    assert [p.step for p in store.series("reward")["a",]] == [1, 2]
    log(store, 3)
    assert store.steps() == [1, 2, 3]


def test_events(store: Store) -> None:
    store.log_event(Event("resume", {"path": "x"}, step=2))
    store.log_step(1, "train", [], events=[Event("drop", {"reason": "timeout"}, 1, "train", "a", "t")])
    assert [event.kind for event in store.events()] == ["drop", "resume"]
    (drop,) = store.events("drop")
    assert (drop.detail, drop.step, drop.source) == ({"reason": "timeout"}, 1, "a")
    assert abs(drop.time - time.time()) < 60
    store.log_step(1, "train", [])
    assert store.events("drop") == []


def test_a_rollout_row_holds_what_made_the_reward(store: Store) -> None:
    one = make_scored(0.5, text="I see \\boxed{4}", detail="4 is not 3", tokens=3, reason="overlong")
    store.log_step(7, "train", [], rollouts=[Rollout.of(7, "train", one, -1.25)], media=one.sample.media)
    (row,) = store.rollouts("train", 7)
    assert (row.sample, row.source, row.task) == ("counting/shapes/0", "counting/shapes", "counting")
    assert row.prompt == "<image>How many shapes are in picture 0?"
    assert (row.response, row.truth, row.advantage) == ("I see \\boxed{4}", 3, -1.25)
    assert row.components[0].detail == "4 is not 3"
    assert (row.status, row.ending, row.in_loss, row.reason) == ("ok", "answered", False, "overlong")
    assert (row.prompt_tokens, row.response_tokens, row.version_min, row.version_max) == (10, 3, 7, 7)
    assert (row.group, row.rank, row.seed) == ("counting/shapes/0", 0, 2**64 - 1)
    assert row.ids is not None
    assert row.ids.tolist() == list(range(13))
    assert row.origin is not None
    assert row.origin.tolist() == [0] * 10 + [1] * 3
    np.testing.assert_array_equal(row.logp, one.trajectory.decisions.logp)
    assert row.media == (one.sample.media[0].sha256,)


def test_what_was_placed_is_told_apart_and_older_files_hold_none(tmp_path: Path) -> None:
    one = make_scored(1.0)
    shown = replace(one, trajectory=one.trajectory.model_copy(update={"component": "expert", "id": "demo"}))
    rows = [Rollout.of(1, "train", each) for each in (one, shown)]
    (tmp_path / "new.parquet").write_bytes(to_parquet(rows))
    assert [row.component for row in from_parquet(tmp_path / "new.parquet")] == ["policy", "expert"]
    older = pq.read_table(tmp_path / "new.parquet").drop_columns(["component"])
    pq.write_table(older, tmp_path / "old.parquet")
    assert [row.component for row in from_parquet(tmp_path / "old.parquet")] == ["policy", "policy"]
    # Judged again, a demonstration is a group of its own, as it was.
    assert [[row.id for row in group] for group in _together(rows)] == [[one.trajectory.id], ["demo"]]


def test_a_sample_is_kept_whole_once_and_without_its_pictures_bytes(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.png"
    picture(3).save(path)
    lying = Media.from_bytes(path.read_bytes(), str(path))
    given = make_sample(4, meta={"level": 2}, expert="\\boxed{3}", tools=("zoom",))
    moved = given.model_copy(update={"media": (lying,)})
    inside = given.model_copy(update={"media": (Media.from_bytes(path.read_bytes()),)})
    other = given.model_copy(update={"truth": 4})
    for step, one in enumerate((moved, inside, other), start=1):
        rollouts = [Rollout.of(step, "train", make_scored(sample=one))] * 2
        store.log_step(step, "train", [], rollouts=rollouts, media=one.media, samples=[one, one])
    first, second, third = (store.rollouts("train", step)[0].sample_sha for step in (1, 2, 3))
    assert first == second != third  # where a picture lies is not what it is
    path.unlink()
    kept = store.sample(first)
    assert kept is not None
    assert kept.media[0].read() == inside.media[0].data
    assert kept.model_copy(update={"media": ()}) == given.model_copy(update={"media": ()})
    assert store.find(Query(samples=(given.id,))).total == 6
    assert store.sample("0" * 64) is None
    stored = store.media(lying.sha256)
    assert stored is not None
    stored.unlink()
    bare = store.sample(first)
    assert bare is not None
    with pytest.raises(DataError, match=lying.sha256):
        bare.media[0].read()
    with contextlib.closing(sqlite3.connect(store.run_dir / "metrics.sqlite")) as db:
        count, longest = db.execute("SELECT count(*), max(length(content)) FROM samples").fetchone()
    assert count == 2
    assert longest < 2000


def test_the_text_of_tokens(store: Store) -> None:
    store.log_step(1, "train", [], pieces={1: "a", 2: " b\N{REPLACEMENT CHARACTER}", 300_000: ""})
    store.log_step(1, "train", [], pieces={1: "A"})
    store.rewind(0)
    assert store.pieces([2, 1, 1, 300_000, 7]) == {1: "A", 2: " b\N{REPLACEMENT CHARACTER}", 300_000: ""}
    assert store.pieces(np.array([2], np.int32)) == {2: " b\N{REPLACEMENT CHARACTER}"}
    assert store.pieces([]) == {}


def test_a_writer_killed_before_a_file_was_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is committed, its file is whole but not moved: readers find it, and the next writer moves it."""
    with Store(tmp_path) as store:
        log(store, 1, value=0.25)
        with monkeypatch.context() as patch:
            patch.setattr("triune.monitor.shards.move", lambda *_: None)
            log(store, 1, value=0.5)  # in place of the first
            log(store, 2, value=0.75)
    torn = tmp_path / "rollouts" / "train" / "00000003.partial"
    torn.write_bytes(b"half")

    def rewards(store: Store) -> list[float | None]:
        return [store.rollouts("train", step)[0].components[0].value for step in (1, 2)]

    with Store(tmp_path, readonly=True) as store:
        assert rewards(store) == [0.5, 0.75]
        assert [row.step for row in store.find(Query(text="boxed")).rows] == [2, 1]
    with Store(tmp_path) as store:
        assert list(tmp_path.glob("rollouts/*/*.partial")) == []
        assert rewards(store) == [0.5, 0.75]


@pytest.mark.parametrize(
    ("form", "extension"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif")]
)
def test_a_picture_is_stored_once_with_its_own_bytes(store: Store, form: str, extension: str) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, format=form)
    medium = Media.from_bytes(buffer.getvalue())
    for step in (1, 2):
        store.log_step(step, "train", [], media=[medium, medium])
    path = store.media(medium.sha256)
    assert path is not None
    assert path.name == f"{medium.sha256}.{extension}"
    assert path.read_bytes() == buffer.getvalue()
    assert len([file for file in (store.run_dir / "media").rglob("*") if file.is_file()]) == 1


def test_a_picture_that_a_power_cut_emptied_is_written_again(tmp_path: Path) -> None:
    medium = make_sample().media[0]
    with Store(tmp_path) as store:
        store.log_step(1, "train", [], media=[medium])
        path = store.media(medium.sha256)
    assert path is not None
    path.write_bytes(b"")
    with Store(tmp_path) as store:
        store.log_step(2, "train", [], media=[medium])
    assert path.read_bytes() == medium.data


def test_videos_stay_where_they_are(store: Store) -> None:
    video = Media(kind="video", uri="clip.mp4", sha256="a" * 64, size=(4, 4))
    message = Message(role="user", content=(Picture(type="video", media=0),))
    one = make_scored(sample=make_sample(media=(video,), messages=(message,)))
    store.log_step(1, "train", [], rollouts=[Rollout.of(1, "train", one)], media=[video])
    assert store.media("a" * 64) is None
    assert store.rollouts("train", 1)[0].prompt == "<video>"


def test_one_writer(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        with pytest.raises(StorageError, match="this process"):
            Store(tmp_path)
        code = f"from triune.monitor.store import Store; Store({str(tmp_path)!r})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"is being written by process {os.getpid()}" in other.stderr
        log(store, 1)
    with Store(tmp_path) as store:
        assert store.steps() == [1]


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not the directory of a run"):
        Store(tmp_path, readonly=True)
    with Store(tmp_path) as store, pytest.raises(ValueError, match="not a step and a phase"):
        store.log_step(1, "../train", [])


def test_a_damaged_file_is_named(store: Store) -> None:
    log(store, 1)
    file = store.run_dir / "rollouts" / "train" / "00000001.parquet"
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(StorageError, match=r"00000001\.parquet"):
        store.rollouts("train", 1)


def test_no_text_that_a_model_writes_stops_the_run(store: Store) -> None:
    call = Call(turn=0, name="zoom", args={"label": "\ud800 of \N{GREEK SMALL LETTER PI}"}, error="\udfff")
    given = make_scored(1.0, text="a\ud800b\0", detail="found \udc80", outcome={"calls": (call,)})
    store.log_step(1, "train", [], rollouts=[Rollout.of(1, "train", given)])
    (kept,) = store.rollouts("train", 1)
    assert kept.response == "a?b\0"
    assert kept.calls[0].args == {"label": "? of \N{GREEK SMALL LETTER PI}"}
    assert kept.calls[0].error == "?"
    assert kept.components[0].detail == "found ?"


def test_a_changed_byte_is_never_shown_as_a_rollout(store: Store) -> None:
    log(store, 1)
    file = store.run_dir / "rollouts" / "train" / "00000001.parquet"
    written = file.read_bytes()
    for place in range(0, len(written), 97):
        data = bytearray(written)
        data[place] ^= 1
        file.write_bytes(data)
        with pytest.raises(StorageError, match=r"00000001\.parquet"):
            store.rollouts("train", 1)
        with contextlib.suppress(
            StorageError
        ):  # of its own, Parquet does not notice each; but nothing else is raised
            from_parquet(file)
        assert store.find(Query(text="shapes")).problems
    file.write_bytes(written)
    assert store.rollouts("train", 1)


# Real processes, real disks


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that can use what these tests use."""
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    head += "from monitor.test_store import *\nrun_dir = Path(sys.argv[1])\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_readers_never_wait_nor_see_half_a_step(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        log(store, 1)
        reader = start(
            """
store = Store(run_dir, readonly=True)
print("ready", flush=True)
seen = []
while not seen or seen[-1] < 40:
    rows = store.series("reward", by=("source",))
    assert len(rows["a",]) == len(rows["b",]), rows
    seen.append(rows["a",][-1].step)
    assert len(store.rollouts("train", max(1, seen[-1] - 1))) == 1
print(len(set(seen)))
""",
            tmp_path,
        )
        slowest = 0.0
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        for step in range(2, 41):
            started = time.monotonic()
            log(store, step)
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.01)
        out, err = reader.communicate(timeout=30)
    assert reader.returncode == 0, err
    assert int(out) > 1
    assert slowest < 5


def test_a_reader_in_the_middle_of_reading_keeps_nobody_waiting(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        log(store, 1)
        with contextlib.closing(sqlite3.connect(tmp_path / "metrics.sqlite")) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT max(step) FROM metrics").fetchone() == (1,)
            started = time.monotonic()
            log(store, 2)
            assert time.monotonic() - started < 10
            assert reader.execute("SELECT max(step) FROM metrics").fetchone() == (1,)  # what it began with
        assert store.steps() == [1, 2]


def test_a_killed_writer_leaves_every_step_it_finished(tmp_path: Path) -> None:
    writer = start(
        """
store = Store(run_dir)
for step in range(1, 10_000):
    log(store, step)
    print(step, flush=True)
""",
        tmp_path,
    )
    assert writer.stdout is not None
    last = 0
    for line in writer.stdout:
        last = int(line)
        if last == 12:
            break
    os.kill(writer.pid, signal.SIGKILL)
    for line in writer.stdout:
        last = int(line)
    writer.communicate()
    leftover = tmp_path / "rollouts" / "train" / "00009999.partial"
    leftover.write_bytes(b"half")
    with Store(tmp_path, readonly=True) as store:
        assert store.steps()[:last] == list(range(1, last + 1))
    with Store(tmp_path) as store:
        assert not leftover.exists()
        series = store.series("reward")
        assert [p.step for p in series["a",]] == [p.step for p in series["b",]] == store.steps()
        assert set(store.rollout_steps()) >= set(range(1, last + 1))
        for step in store.rollout_steps():
            assert len(store.rollouts("train", step)) == 1
        store.rewind(5)
        log(store, 6)
        assert store.steps() == [1, 2, 3, 4, 5, 6]


def fill(store: Store) -> None:
    """Logs ever more until the disk is full, and prints each step that was logged whole."""
    noise = np.random.default_rng(0)
    for step in range(1, 1000):
        text = noise.integers(0, 256, 20_000, dtype=np.uint8).tobytes().hex()
        one = make_scored(text=text)
        metrics = [scalar(f"m{index}", step, source=f"s{step}") for index in range(200)]
        store.log_step(
            step, "train", metrics, rollouts=[Rollout.of(step, "train", one)], media=one.sample.media
        )
        print(step, flush=True)
    raise AssertionError("the disk never filled up")


def check_full(run_dir: Path, last: int, message: str) -> None:
    assert last >= 1
    assert str(run_dir) in message
    assert "everything logged before is intact" in message
    with Store(run_dir, readonly=True) as store:
        assert store.steps() == list(range(1, last + 1))
        assert store.rollout_steps() == store.steps()
        for step in store.steps():
            assert len(store.rollouts("train", step)) == 1
            assert len(store.series("m0")[f"s{step}",]) == 1
    assert not list(run_dir.rglob("*.partial"))


def test_a_file_size_limit_is_reported_and_leaves_the_rest(tmp_path: Path) -> None:
    writer = start(
        """
import resource
store = Store(run_dir)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    fill(store)
except StorageError as error:
    print(error)
""",
        tmp_path,
    )
    out, err = writer.communicate(timeout=60)
    assert writer.returncode == 0, err
    *steps, message = out.splitlines()
    check_full(tmp_path, len(steps), message)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_reported_and_leaves_the_rest(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(small_disk) as store, pytest.raises(StorageError) as error:
        fill(store)
    check_full(small_disk, len(capsys.readouterr().out.splitlines()), str(error.value))


def log_until_full(store: Store) -> None:
    for value in range(100):
        log(store, 1, value=value)
        store.log_step(2, "train", [scalar(f"m{value}-{i}", 1.0) for i in range(500)])


def test_a_full_disk_keeps_the_earlier_version_of_a_step(small_disk: Path) -> None:
    with Store(small_disk) as store:
        log(store, 1, value=0.25)
        hog = small_disk / "hog"
        with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(StorageError):
            log_until_full(store)
        hog.unlink()
        before = store.series("reward")["a",][0].mean
        assert store.rollouts("train", 1)[0].components[0].value == before
        log(store, 1, value=7.0)
        assert store.series("reward")["a",][0].mean == 7.0


def test_a_read_only_disk_can_be_read_and_refuses_to_be_written(small_disk: Path) -> None:
    with Store(small_disk) as store:
        log(store, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Store(small_disk, readonly=True) as store:
        assert store.steps() == [1]
        assert len(store.rollouts("train", 1)) == 1
    with pytest.raises(StorageError, match="Read-only file system"):
        Store(small_disk)


def test_a_disk_that_becomes_read_only_under_the_writer(small_disk: Path) -> None:
    with Store(small_disk) as store:
        log(store, 1)
        blocker = small_disk / "rollouts" / "train"
        blocker.rename(small_disk / "moved")
        blocker.write_bytes(b"a file where the directory should be")
        with pytest.raises(StorageError, match="rollouts/train"):
            log(store, 2)
        assert store.steps() == [1]
