"""Changes over a window: what they are between, and when they are more than chance."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from triune.monitor.dash.routes.matrix import Change, matrix
from triune.monitor.metric import Metric
from triune.monitor.store import Point, Store


def point(step: int, mean: float, std: float = 0.0, count: int = 1) -> Point:
    return Point(step, count, mean, std, mean - std, mean + std)


def test_a_change_is_between_the_first_and_the_last_tenth() -> None:
    change = Change.over([point(step, float(step)) for step in range(20)])
    assert change is not None
    assert (change.before.mean, change.now.mean, change.by) == (0.5, 18.5, 18.0)


def test_levels_are_standard_errors() -> None:
    def level(by: float, std: float = 1.0, count: int = 101) -> int:
        change = Change.over([point(1, 0.0, std, count), point(2, by, std, count)])
        assert change is not None
        return change.level

    error = math.sqrt(2 * 1.0 / 100)
    assert [level(times * error) for times in (0, 1.9, 2.1, -4.9, 5.1)] == [0, 1, 2, 2, 3]
    assert level(1.0, std=0.0) == 3  # without any spread it cannot be chance
    assert level(100.0, std=0.0, count=1) == 1  # one value each says nothing of the spread


@pytest.mark.parametrize(
    "points", [[], [point(1, 1.0)], [point(1, 1.0), Point(2, 0, math.nan, math.nan, math.nan, math.nan, 3)]]
)
def test_one_value_is_no_change(points: list[Point]) -> None:
    assert Change.over(points) is None


def test_cells_windows_and_what_is_not_finite(tmp_path: Path) -> None:
    evil = "<b>\u202e'\"\n"
    with Store(tmp_path) as store:
        for step in range(1, 31):
            store.log_step(
                step,
                "train",
                [
                    Metric.of("reward", [step / 30], source="a", task="t"),
                    Metric.of("entropy", [math.nan if step == 30 else 1.0], source="a", task="t"),
                    *([Metric.of("reward", [0.5], source=evil, task="t")] if step == 3 else []),
                    Metric.of("component", [0.1], source="a", task="t", component="boxes"),
                    Metric.of("status", [1.0, 0.0], source="a", task="t", status="ok"),
                    Metric.of("status", [0.0], source="a", task="t", status="timeout"),
                    Metric.of("grad_norm", [1.0], module="all"),
                ],
            )
        found = matrix(store, window=10)
        every = matrix(store, window=0, every=True)
    assert [(c["name"], c["value"], c["better"]) for c in found["columns"]] == [
        ("reward", "", 1), ("component", "boxes", 1), ("status", "ok", 1), ("entropy", "", 0),
    ]  # fmt: skip
    rows = {row["source"]: row["cells"] for row in found["rows"]}
    assert set(rows) == {"a", evil}
    reward, boxes, ok, entropy = rows["a"]
    assert (reward["now"], reward["step"], round(reward["change"], 6)) == (1.0, 30, round(10 / 30, 6))
    assert (boxes["change"], boxes["level"], ok["now"]) == (0.0, 0, 0.5)
    assert (entropy["now"], entropy["nonfinite"]) == (None, 1)
    # Last seen before the window: shown with its step, and no change is made up.
    assert (rows[evil][0]["now"], rows[evil][0]["step"], rows[evil][0]["change"]) == (0.5, 3, None)
    assert rows[evil][1:] == [None] * 3
    assert ("status", "timeout") in {(c["name"], c["value"]) for c in every["columns"]}
    assert round(every["rows"][1]["cells"][0]["change"], 6) == 0.9  # steps 1 to 3 against 28 to 30


def test_an_empty_run(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert matrix(store)["rows"] == []
        assert matrix(store, phase="held-out")["columns"] == []
