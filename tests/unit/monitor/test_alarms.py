"""Alarms: what is kept of them, and for each rule a run that raises it and one that does not."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from triune.core.errors import RecipeError
from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.monitor import alarms
from triune.monitor.alarms import Alarm
from triune.monitor.alarms.readings import Readings
from triune.monitor.metric import Metric, scalar
from triune.monitor.monitor import Monitor
from triune.monitor.sinks import Run
from triune.monitor.sinks.terminal import Terminal
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


def test_a_step_that_is_logged_again_is_looked_at_again(tmp_path: Path) -> None:
    def entropy(step: int) -> list[Metric]:
        return [scalar("entropy", 0.5 if step <= 10 else 0.01, source="a")]

    with Monitor(tmp_path, sinks=()) as monitor:
        for step in [*range(1, 21), 20]:
            monitor.log_step(step, "train", scalars=entropy(step))
        (held,) = alarms.read(monitor.store)
        assert held.step == 20
        monitor.log_step(20, "train", scalars=[scalar("entropy", 4.0, source="a")])
        monitor.log_step(20, "eval", scalars=entropy(1))
        assert len(alarms.read(monitor.store)) == 1


def test_the_terminal_shows_what_holds_and_says_what_changed(tmp_path: Path) -> None:
    plain, live = io.StringIO(), io.StringIO()
    sinks = [
        Terminal(Run(tmp_path), Console(file=plain), plain_every=1),
        Terminal(Run(tmp_path), Console(file=live, force_terminal=True, width=120, color_system=None)),
    ]
    with Monitor(tmp_path, sinks=sinks) as monitor:
        for step in range(1, 41):
            value = 0.01 if 10 < step <= 25 else 0.5
            monitor.log_step(step, "train", scalars=[scalar("entropy", value, source="a\x1b[2J")])
        monitor.flush()
    said = plain.getvalue().splitlines()
    assert sum(line.startswith("ALARM at step 20: entropy_collapse (a") for line in said) == 1
    assert sum(line.startswith("alarm over at step 30: entropy_collapse") for line in said) == 1
    assert "alarms 1" in next(line for line in said if line.startswith("step 22"))
    assert "alarms" not in next(line for line in said if line.startswith("step 40"))
    for shown in (plain, live):
        assert "ALARM at step 20" in shown.getvalue()
        assert "a\x1b[2J" not in shown.getvalue()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "monitor.alarms.entropy_colapse={}",
            "monitor.alarms: unknown alarm 'entropy_colapse': did you mean",
        ),
        (
            "monitor.alarms.entropy_collapse.sahre=2",
            "alarm entropy_collapse: sahre: unknown key; did you mean 'share'",
        ),
        ("monitor.stop_on=[blind]", "monitor.stop_on: unknown alarm 'blind'; did you mean 'blind_policy'"),
        ("train.eval_probes=[blnd]", "train.eval_probes: unknown probe 'blnd'; did you mean 'blind'"),
    ],
)
def test_wrong_names_in_a_recipe_are_errors_with_a_suggestion(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(find_recipe("quickstart"), (override,))
    assert message in str(caught.value)


def test_a_rule_that_is_left_out_cannot_stop_a_run() -> None:
    with pytest.raises(RecipeError, match="stop_on names blind_policy, which alarms leaves out"):
        Recipe.load(
            find_recipe("quickstart"), ("monitor.alarms.blind_policy=null", "monitor.stop_on=[blind_policy]")
        )


def test_the_page_names_every_rule_with_its_defaults() -> None:
    page = (Path(__file__).parents[3] / "docs" / "alarms.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert set(rows) == set(alarms.ALARMS)
    for name, row in rows.items():
        named = set(re.findall(r"`(\w+)`", row)) & set(alarms.ALARMS[name].model_fields)
        assert named, f"{name}: the page names none of its options"


def test_a_rule_that_fails_says_so_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(rule: alarms.Rule, readings: Readings) -> Iterator[Alarm]:
        raise KeyError("window")

    monkeypatch.setattr(alarms.ALARMS["entropy_collapse"], "check", broken)
    with Monitor(tmp_path, sinks=()) as monitor:
        for step in range(1, 21):
            monitor.log_step(step, "train", scalars=[scalar("entropy", 0.5, source="a")])
        said = [
            event
            for event in monitor.store.events(alarms.NOTED)
            if event.detail["rule"] == "entropy_collapse"
        ]
    assert [event.detail["message"] for event in said] == [
        "the rule failed, and finds nothing: KeyError: 'window'"
    ]


def test_a_rule_is_left_out_by_none() -> None:
    assert "entropy_collapse" not in alarms.rules({"entropy_collapse": None})
    assert set(alarms.rules()) == set(alarms.ALARMS)
