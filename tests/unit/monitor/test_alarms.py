"""Alarms: what is kept of them, and for each rule a run that raises it and one that does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from triune.core.errors import RecipeError
from triune.monitor import alarms
from triune.monitor.alarms import Alarm
from triune.monitor.store import Store

ALARM = Alarm(
    rule="entropy_collapse",
    source="counting/shapes",
    component="",
    step=20,
    since=11,
    message="entropy is 0.01 nats per token",
    value=0.01,
    bound=0.1,
    metric="entropy",
)


def test_alarms_are_read_back_as_they_were_raised(tmp_path: Path) -> None:
    other = replace(ALARM, source="", value=math.inf, level="stop", step=21)
    again = replace(ALARM, step=40)
    with Store(tmp_path) as store:
        store.log_event(ALARM.event())
        store.log_event(other.event())
        store.log_event(ALARM.event_over(30))
        store.log_event(again.event())
        found = alarms.read(store)
    assert found[0] == replace(ALARM, over=30)
    assert math.isnan(found[1].value)  # what is not finite is no number in JSON
    assert replace(found[1], value=math.inf) == other
    assert found[2] == again


def test_a_rewind_takes_back_what_was_raised_later(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.log_step(10, "train", [])
        store.log_event(replace(ALARM, step=10).event())
        store.log_step(12, "train", [])
        store.log_event(ALARM.event_over(12))
        store.rewind(11)
        (held,) = alarms.read(store)
    assert held.over is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entropy_colapse": {}}, "unknown alarm 'entropy_colapse': did you mean 'entropy_collapse'"),
        (
            {"entropy_collapse": {"sahre": 0.2}},
            "alarm entropy_collapse: sahre: unknown key; did you mean 'share'",
        ),
        ({"entropy_collapse": {"share": 2}}, "alarm entropy_collapse: share: expected less than 1"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        alarms.rules(options)
    assert message in str(caught.value)


def test_a_rule_is_left_out_by_none() -> None:
    assert "entropy_collapse" not in alarms.rules({"entropy_collapse": None})
    assert set(alarms.rules()) == set(alarms.ALARMS)
