"""What every sink must do, whoever wrote it: a new one is picked up from the registry."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from triune.core.errors import RecipeError
from triune.monitor.metric import Metric, scalar
from triune.monitor.sinks import SINKS, Rewindable, Run
from triune.monitor.sinks.guard import Guard
from triune.monitor.sinks.tracker import Tracker

STEP = (
    Metric.of("reward", [0.0, 1.0], source="counting/shapes", task="counting"),
    Metric.of("status", [1.0], source="counting/shapes", task="counting", status="ok"),
    Metric.of("reflection/word", [2.0], source="ünïcode \x1b[31m 'quoted' [bold]", word="wait"),
    scalar("grad_norm", 1e-3, module="vision"),
    scalar("loss", math.nan),
    scalar("huge", 1e300),
)


@pytest.fixture(params=list(SINKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Trackers write to this machine. trackio reads its folder once, when it is imported."""
    os.environ.setdefault("TRACKIO_DIR", str(tmp_path_factory.getbasetemp() / "trackio"))
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


def test_steps_of_every_phase_are_taken(name: str, tmp_path: Path) -> None:
    sink = SINKS[name]().open(Run(tmp_path, total_steps=3))
    sink.log(0, "eval-before", STEP)
    for step in (1, 2, 3):
        sink.log(step, "train", STEP)
    sink.log(3, "eval", ())
    sink.close()


def test_a_step_may_come_again_in_a_later_process(name: str, tmp_path: Path) -> None:
    for _ in range(2):
        sink = SINKS[name]().open(Run(tmp_path))
        sink.log(1, "train", STEP)
        sink.log(1, "train", STEP[:2])
        sink.close()


def test_rewind_before_and_after_the_first_step(name: str, tmp_path: Path) -> None:
    sink = SINKS[name]().open(Run(tmp_path))
    if isinstance(sink, Rewindable):
        sink.rewind(0)
        sink.log(1, "train", STEP)
        sink.log(2, "train", STEP)
        sink.rewind(1)
        sink.log(2, "train", STEP)
    sink.close()


def test_nothing_is_logged_by_opening_and_closing_twice(name: str, tmp_path: Path) -> None:
    sink = SINKS[name]().open(Run(tmp_path))
    sink.close()
    sink.close()


def test_a_resumed_run_is_the_same_run_there(name: str, tmp_path: Path) -> None:
    noted = []
    for start in (1, 3):
        sink = SINKS[name]().open(Run(tmp_path))
        if isinstance(sink, Rewindable):
            sink.rewind(start - 1)
        for step in (start, start + 1, start + 2):
            sink.log(step, "train", STEP)
        sink.close()
        noted += [json.loads(file.read_bytes()) for file in (tmp_path / "trackers").glob("*.json")]
    if isinstance(sink, Tracker):
        assert [one["last"] for one in noted] == [{"train": 3}, {"train": 5}]
        assert noted[0]["id"] == noted[1]["id"]
        assert sink.repeated() == (0 if sink.replaces else 1)  # step 3


def test_a_failure_is_counted_and_the_next_step_taken(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = SINKS[name]().open(Run(tmp_path))
    guard = Guard(name, sink, patience=30)
    working = sink.log

    def broken(step: int, phase: str, metrics: Sequence[Metric]) -> None:
        raise OSError("cannot be written")

    monkeypatch.setattr(sink, "log", broken)
    guard.log(1, "train", STEP)
    assert guard.flush()
    monkeypatch.setattr(sink, "log", working)
    guard.log(2, "train", STEP)
    guard.close()
    assert [(one.name, one.label("sink"), one.mean) for one in guard.metrics()] == [
        ("sinks/failed", name, 1.0)
    ]
    assert guard.news() == [f"sink {name} failed at step 1 of train: OSError: cannot be written"]


def test_what_waits_for_others_does_not_make_the_run_wait(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = SINKS[name]().open(Run(tmp_path))
    if not isinstance(sink, Tracker):
        assert name == "store" or getattr(sink, "local", False)  # files and the terminal of this machine
        sink.close()
        return
    reached, released = threading.Event(), threading.Event()

    def hang(known: str | None) -> str:
        reached.set()
        released.wait(60)
        raise ConnectionError

    monkeypatch.setattr(sink, "connect", hang)
    guard = Guard(name, sink, patience=0.05)
    started = time.monotonic()
    for step in range(50):
        guard.log(step, "train", STEP)
    assert reached.wait(10)
    guard.close()
    assert time.monotonic() - started < 5
    released.set()
    assert {one.name for one in guard.metrics()} == {"sinks/failed", "sinks/dropped"}


def test_an_unknown_sink_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown sink 'jsonk': did you mean 'jsonl'"):
        SINKS["jsonk"]


def test_the_built_in_ones_are_there() -> None:
    files, trackers = {"jsonl", "csv", "parquet"}, {"wandb", "tensorboard", "trackio", "mlflow"}
    assert {"store", "terminal", *files, *trackers} <= set(SINKS)
