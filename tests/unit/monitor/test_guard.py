"""A sink that fails or hangs costs the run nothing but what it did not take, and that is counted."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from triune.core.errors import RecipeError
from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.monitor.metric import Metric, Scored, scalar
from triune.monitor.monitor import Monitor
from triune.monitor.sinks import Run
from triune.monitor.sinks.guard import QUEUED, Guard, guarded
from triune.monitor.sinks.jsonl import JsonLinesOptions
from triune.monitor.store import Event, Store

from .making import group


class Broken:
    """Fails where it is told to, and remembers what it took."""

    def __init__(self, fails: Callable[[int], bool] = lambda step: True, local: bool = False) -> None:
        self.fails, self.local = fails, local
        self.taken: list[int] = []

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        if self.fails(step):
            raise ConnectionError("no route to host")
        self.taken.append(step)

    def close(self) -> None: ...


class Hanging:
    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()
        self.taken: list[int] = []

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self.entered.set()
        self.released.wait()
        self.taken.append(step)

    def close(self) -> None: ...


class Picks:
    def __init__(self) -> None:
        self.got: list[tuple[str, list[str], list[float | None]]] = []

    def pick(self, phase: str, kept: Sequence[Scored]) -> Sequence[int]:
        return [1] if phase == "eval" else []

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self.got.append((phase, [], []))

    def log_rollouts(
        self,
        step: int,
        phase: str,
        metrics: Sequence[Metric],
        kept: Sequence[Scored],
        advantages: Sequence[float | None],
        events: Sequence[Event],
    ) -> None:
        self.got.append((phase, [one.outcome.id for one in kept], list(advantages)))

    def close(self) -> None: ...


@pytest.mark.parametrize("local", [False, True])
def test_a_failure_is_counted_and_said_once(tmp_path: Path, local: bool) -> None:
    sink = Broken(lambda step: step > 1, local)
    with Monitor(tmp_path, [sink]) as monitor:
        for step in range(1, 6):
            monitor.log_step(step, "train", scalars=[scalar("loss", 1.0)])
            monitor.flush()
            assert monitor._sinks[0].flush()
    with Store(tmp_path, readonly=True) as store:
        counted = store.series("sinks/failed", by=("sink",))["broken",]
        assert [(point.step, point.mean) for point in counted] == [(3, 1.0), (4, 1.0), (5, 1.0)]
        assert store.steps() == [1, 2, 3, 4, 5]
        said = [str(event.detail["message"]) for event in store.events("sink")]
    assert said[0] == "sink broken failed at step 2 of train: ConnectionError: no route to host"
    assert said[1:] == ["sink broken: 4 calls failed or were dropped in this run"]
    assert sink.taken == [1]


def test_a_sink_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    sink, steps = Hanging(), QUEUED + 12
    started = time.monotonic()
    with Monitor(tmp_path, [sink]) as monitor:
        monitor.log_step(1, "train")
        assert sink.entered.wait(10)
        for step in range(2, steps + 1):
            monitor.log_step(step, "train")
        monitor.flush()
        monitor._sinks[0]._patience = 0.1
    assert time.monotonic() - started < 10
    sink.released.set()
    with Store(tmp_path, readonly=True) as store:
        dropped = store.series("sinks/dropped", by=("sink",))["hanging",]
        # Step 1 is held by the sink, 32 wait; of the others each is counted with the step after it.
        assert sum(point.mean * point.count for point in dropped) == steps - 1 - QUEUED - 1
        said = [str(event.detail["message"]) for event in store.events("sink")]
    assert "does not keep up: step 34 of train is dropped" in said[0]
    assert "not done after 0.1 s; 32 calls are lost" in said[1]


def test_only_rollouts_that_a_sink_wants_wait_for_it() -> None:
    sink = Picks()
    guard = Guard("picks", sink)
    rollouts = group([1.0, 0.0])
    for phase in ("train", "eval"):
        guard.log_rollouts(1, phase, (), rollouts, [0.5, -0.5], [])
    guard.close()
    assert sink.got == [("train", [], []), ("eval", [rollouts[1].outcome.id], [-0.5])]


class Leaving:
    """Ends the process in its own way, wherever it is asked."""

    def __init__(self, local: bool) -> None:
        self.local = local

    def pick(self, phase: str, kept: Sequence[Scored]) -> Sequence[int]:
        sys.exit("pick")

    def repeated(self) -> int:
        raise RuntimeError("repeated")

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        sys.exit("log")

    def log_rollouts(self, *args: object) -> None:
        raise AssertionError("nothing was picked")

    def close(self) -> None:
        raise asyncio.CancelledError("close")


@pytest.mark.parametrize("local", [True, False])
def test_whatever_a_sink_raises_the_run_goes_on(tmp_path: Path, local: bool) -> None:
    with Monitor(tmp_path, sinks=[Leaving(local)]) as monitor:
        for step in (1, 2, 3):
            monitor.log_step(step, "train", group([1.0, 0.0]))
            monitor.flush()
    with Store(tmp_path, readonly=True) as store:
        assert store.steps() == [1, 2, 3]
        said = " ".join(str(event.detail["message"]) for event in store.events("sink"))
        failed = store.series("sinks/failed", by=("sink",))["leaving",]
    assert all(
        words in said for words in ("SystemExit: pick", "SystemExit: log", "repeated", "CancelledError")
    )
    assert [point.step for point in failed] == [1, 2, 3]


def test_what_is_wrong_in_a_recipe_is_an_error_before_the_run(tmp_path: Path) -> None:
    for text, error in (
        ("monitor.sinks=[jsonk]", r"monitor\.sinks.*unknown sink 'jsonk'; did you mean 'jsonl'"),
        ("monitor.sinks=[{kind: jsonl, folder: x}]", r"monitor\.sinks.*folder"),
        ("monitor.sinks=[{folder: x}]", "expected a name or {kind: NAME"),
    ):
        with pytest.raises(RecipeError, match=error):
            Recipe.load(find_recipe("quickstart"), [text])
    recipe = Recipe.load(find_recipe("quickstart"), ["monitor.sinks=[store, jsonl]"])
    assert recipe.dump()["monitor"]["sinks"] == [{"kind": "store"}, {"kind": "jsonl"}]
    assert Recipe.model_validate(recipe.dump()) == recipe
    assert guarded("store", Run(tmp_path)) is None
    guard = guarded(JsonLinesOptions(), Run(tmp_path))
    assert guard is not None
    assert guard.name == "jsonl"
    guard.close()
