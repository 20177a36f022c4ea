"""Writing goes on behind the back of the run: what waits is bounded, nothing is lost uncounted, errors come back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from triune.core.errors import StorageError
from triune.core.trajectory import Payload
from triune.monitor.metric import Metric, Scored, scalar
from triune.monitor.monitor import BUFFER_STEPS, Monitor
from triune.monitor.store import Store
from triune.monitor.writer import Writer

from .making import group, make_sample, make_scored

DEADLINE = 30.0


class Slow:
    """A sink that stands still until it is let go, as a disk might."""

    local = True

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.steps: list[int] = []

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self.entered.set()
        assert self.go.wait(DEADLINE)
        self.steps.append(step)

    def close(self) -> None:
        pass


@pytest.fixture
def slow() -> Iterator[Slow]:
    sink = Slow()
    yield sink
    sink.go.set()


def heavy(source: str = "counting/shapes") -> list[Scored]:
    """A group of two rollouts of more than half a megabyte each."""
    rows = group([1.0, 0.0], make_sample(source=source))
    arrays = {"ids": np.zeros(150_000, np.int32)}
    return [
        Scored(
            one.sample,
            one.trajectory.model_copy(update={"payload": Payload(family="language", arrays=arrays)}),
            one.outcome,
            one.verdict,
        )
        for one in rows
    ]


def shares(store: Store, name: str, *by: str) -> dict[tuple[str, ...], list[tuple[int, float]]]:
    return {
        key: [(p.step, p.count * p.mean) for p in points] for key, points in store.series(name, by=by).items()
    }


def test_the_step_does_not_wait_for_the_disk_and_what_is_left_out_is_counted(
    tmp_path: Path, slow: Slow
) -> None:
    with Monitor(tmp_path, [slow], buffer_mb=2) as monitor:
        for step in (1, 2):
            monitor.log_step(step, "train", heavy(), [scalar("loss", step)])
        assert slow.entered.wait(DEADLINE)
        for step in (3, 4):  # while the first is still being written
            monitor.log_step(
                step, "train", [*heavy(), make_scored(None, rank=2, reason="timeout")], [scalar("loss", step)]
            )
        assert slow.steps == []
        slow.go.set()
        store = monitor.store
        assert store.steps() == [1, 2, 3, 4]
        assert [p.mean for p in store.series("loss", by=())[()]] == [1, 2, 3, 4]
        assert store.rollout_steps() == [1]
        assert shares(store, "rollouts/kept", "source") == {
            ("counting/shapes",): [(1, 2.0), (2, 0.0), (3, 0.0), (4, 0.0)]
        }
        unkept = shares(store, "rollouts/unkept", "source", "reason")
        assert unkept == {("counting/shapes", "buffer"): [(2, 2.0), (3, 3.0), (4, 3.0)]}
        assert len(store.events("drop")) == 2  # who left the loss is known all the same
        (said,) = store.events("buffer")
        assert "not kept" in str(said.detail["message"])
        monitor.log_step(5, "train", heavy())
        assert monitor.store.rollout_steps() == [1, 5]  # there is room again


def test_an_evaluation_waits_for_room_instead(tmp_path: Path, slow: Slow) -> None:
    with Monitor(tmp_path, [slow], buffer_mb=2) as monitor:
        monitor.log_step(1, "train", heavy())
        assert slow.entered.wait(DEADLINE)
        threading.Timer(0.05, slow.go.set).start()
        logged = monitor.log_step(1, "eval", heavy())
        (waited,) = [m for m in logged if m.name == "seconds"]
        assert waited.labels == (("phase", "monitor"),)
        assert waited.mean > 0
        assert monitor.store.rollout_steps("eval") == [1]
        assert len(monitor.store.events("buffer-wait")) == 1


def test_metrics_are_never_lost_the_run_waits(tmp_path: Path, slow: Slow) -> None:
    with Monitor(tmp_path, [slow]) as monitor:
        for step in range(1, BUFFER_STEPS + 1):
            assert not [
                m for m in monitor.log_step(step, "train", (), [scalar("loss", 1.0)]) if m.name == "seconds"
            ]
        threading.Timer(0.05, slow.go.set).start()
        logged = monitor.log_step(BUFFER_STEPS + 1, "train", (), [scalar("loss", 1.0)])
        assert [m.name for m in logged] == ["loss", "seconds"]
        assert monitor.store.steps() == list(range(1, BUFFER_STEPS + 2))


def test_a_step_larger_than_the_whole_buffer_is_kept_when_nothing_waits(tmp_path: Path) -> None:
    with Monitor(tmp_path, buffer_mb=0.1) as monitor:
        monitor.log_step(1, "train", heavy())
        assert monitor.store.rollout_steps() == [1]


def test_flushing_means_that_another_process_could_read_it(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor, Store(tmp_path, readonly=True) as other:
        for step in (1, 2, 3):
            monitor.log_step(step, "train", [make_scored()])
        monitor.flush()
        assert other.steps() == [1, 2, 3]
        assert len(other.rollouts("train", 3)) == 1


def test_a_failed_write_stops_the_run_at_its_next_call(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path)
    monitor.log_step(1, "train", [make_scored()])
    monitor.flush()
    blocked = tmp_path / "rollouts" / "train"
    blocked.rename(tmp_path / "moved")
    blocked.write_bytes(b"a file where the folder should be")
    monitor.log_step(2, "train", [make_scored()])
    with pytest.raises(StorageError, match=r"rollouts/train.*everything logged before is intact"):
        monitor.flush()
    for call in (
        lambda: monitor.log_step(3, "train", [make_scored()]),
        lambda: monitor.say("still there?"),
        lambda: monitor.rewind(1),
        lambda: monitor.store,
        monitor.close,
    ):
        with pytest.raises(StorageError, match="rollouts/train"):
            call()
    monitor.close()  # once is enough
    with Store(tmp_path) as store:  # and the run is free
        assert store.steps() == [1]


def test_a_closed_monitor_says_so(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path)
    monitor.close()
    monitor.close()
    with pytest.raises(StorageError, match="was closed"):
        monitor.log_step(1, "train")


def test_after_an_error_nothing_more_is_run() -> None:
    done: list[int] = []
    writer = Writer(100, 10)

    def fail() -> None:
        raise OSError("no disk")

    writer.submit(lambda: done.append(1))
    writer.submit(fail)
    with pytest.raises(OSError, match="no disk"):
        writer.flush()
    with pytest.raises(OSError, match="no disk"):
        writer.submit(lambda: done.append(2))
    with pytest.raises(OSError, match="no disk"):
        writer.close()
    assert done == [1]


def other(code: str, run_dir: Path) -> subprocess.CompletedProcess[str]:
    head = f"import sys, os; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    head += "from monitor.test_writer import *\nrun_dir = Path(sys.argv[1])\n"
    return subprocess.run(
        [sys.executable, "-c", head + code, str(run_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_process_whose_main_thread_fails_writes_what_is_left_and_ends(tmp_path: Path) -> None:
    ended = other(
        """
monitor = Monitor(run_dir)
for step in range(1, 31):
    monitor.log_step(step, "train", [make_scored()])
    if step == 1:
        monitor.flush()  # so that everything which writing needs is imported
raise RuntimeError("a bug")
""",
        tmp_path,
    )
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("RuntimeError: a bug")
    with Store(tmp_path) as store:
        assert store.steps() == store.rollout_steps() == list(range(1, 31))


def test_ctrl_c_while_the_run_waits_for_its_disk(tmp_path: Path) -> None:
    ended = other(
        """
import signal
slow = Slow()
monitor = Monitor(run_dir, [slow])
monitor.log_step(1, "train", [make_scored()])
assert slow.entered.wait(DEADLINE)
threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    monitor.flush()
except KeyboardInterrupt:
    slow.go.set()
    monitor.log_step(2, "train", [make_scored()])
    monitor.close()
    print("closed", slow.steps)
""",
        tmp_path,
    )
    assert ended.stdout == "closed [1, 2]\n", ended.stderr
    with Store(tmp_path) as store:
        assert store.steps() == [1, 2]


def test_a_process_that_ends_says_what_it_could_not_write(tmp_path: Path) -> None:
    ended = other(
        """
slow = Slow()
monitor = Monitor(run_dir, [slow])
monitor.log_step(1, "train", [make_scored()])
assert slow.entered.wait(DEADLINE)
(run_dir / "rollouts" / "train").rename(run_dir / "moved")
(run_dir / "rollouts" / "train").write_bytes(b"a file where the folder should be")
monitor.log_step(2, "train", [make_scored()])
slow.go.set()
""",
        tmp_path,
    )
    assert "not all of the run was written: StorageError: " in ended.stderr
    assert "rollouts/train" in ended.stderr
    with Store(tmp_path, readonly=True) as store:
        assert store.steps() == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_was_forked_off_neither_writes_nor_hangs(tmp_path: Path) -> None:
    ended = other(
        """
monitor = Monitor(run_dir)
monitor.log_step(1, "train", [make_scored()])
monitor.flush()
child = os.fork()
if not child:
    try:
        monitor.log_step(2, "train", [make_scored()])
    except StorageError as error:
        monitor.close()
        print(error, flush=True)
    sys.exit()  # with everything that a process does at its end
assert os.waitpid(child, 0)[1] == 0
monitor.log_step(2, "train", [make_scored()])
monitor.close()
""",
        tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert "forked off" in ended.stdout
    with Store(tmp_path) as store:
        assert store.steps() == [1, 2]
