"""What every sink must do, whoever wrote it: a new one is picked up from the registry."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from triune.core.errors import RecipeError
from triune.monitor.metric import Metric, scalar
from triune.monitor.sinks import SINKS, Rewindable, Run

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


def test_an_unknown_sink_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown sink 'jsonk': did you mean 'jsonl'"):
        SINKS["jsonk"]


def test_the_built_in_ones_are_there() -> None:
    assert {"store", "jsonl", "terminal"} <= set(SINKS)
