from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path

import pytest
from rich.console import Console

from triune.monitor.metric import Metric, scalar
from triune.monitor.sinks import Run
from triune.monitor.sinks.jsonl import JsonLines
from triune.monitor.sinks.terminal import Terminal
from triune.monitor.source import rollout_metrics

from .making import group, make_sample, make_scored


def lines(run_dir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_json_lines(tmp_path: Path) -> None:
    sink = JsonLines(Run(tmp_path))
    sink.log(1, "train", [Metric.of("reward", [0.0, 1.0], source="a"), scalar("loss", math.nan)])
    reward, loss = lines(tmp_path)  # readable before it is closed
    sink.close()
    assert reward == {
        "step": 1, "phase": "train", "name": "reward", "labels": {"source": "a"},
        "count": 2, "mean": 0.5, "std": 0.5, "min": 0.0, "max": 1.0, "nonfinite": 0,
    }  # fmt: skip
    assert loss["mean"] is None
    assert loss["nonfinite"] == 1


def test_json_lines_rewind_and_survive_half_a_line(tmp_path: Path) -> None:
    sink = JsonLines(Run(tmp_path))
    for step in (1, 2, 3):
        sink.log(step, "train", [scalar("loss", step)])
    sink.rewind(2)
    sink.log(3, "train", [scalar("loss", 30.0)])
    sink.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "phase": "tr')  # killed within a write
    sink = JsonLines(Run(tmp_path))
    sink.log(4, "train", [scalar("loss", 40.0)])
    sink.close()
    assert [(line["step"], line["mean"]) for line in lines(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
        (4, 40.0),
    ]


def step_metrics() -> list[Metric]:
    first = group([1.0, 0.0, 0.0, 0.0], make_sample(0))
    second = [
        *group([1.0, 1.0], make_sample(0, "ocr/word")),
        make_scored(None, make_sample(0, "ocr/word"), rank=2),
    ]
    return rollout_metrics([*first, *second])


def test_plain_lines_where_the_output_is_no_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    sink = Terminal(Run(tmp_path, total_steps=25), Console(file=out), plain_every=10)
    for step in range(1, 26):
        sink.log(step, "train", step_metrics())
    sink.log(25, "eval", step_metrics())
    sink.say("probe: fine")
    sink.close()
    shown = out.getvalue().splitlines()
    assert [line.split("  ")[:2] for line in shown[:4]] == [
        ["step 10/25", "train"],
        ["step 20/25", "train"],
        ["step 25/25", "train"],
        ["step 25/25", "eval"],
    ]
    assert shown[4] == "probe: fine"
    assert "correct 0.500" in shown[0]
    assert "zero-var 50%" in shown[0]
    assert "unscored 14%" in shown[0]
    assert "0:00:00 left" in shown[2]
    assert "\x1b" not in out.getvalue()


def test_the_live_view(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    sink = Terminal(Run(tmp_path, total_steps=100), console)
    sink.log(0, "eval-before", step_metrics())
    sink.log(40, "train", step_metrics())
    time.sleep(0.01)
    sink.log(41, "train", step_metrics())
    sink.say("checkpoint written")
    sink.close()
    last = out.getvalue().split("checkpoint written")[-1]
    assert "step 41/100" in last
    assert "left" in last
    for cell in ("counting/shapes", "ocr/word", "held-out", "zero-var", "0.250", "33%"):
        assert cell in last, cell


def test_names_cannot_control_the_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    sink = Terminal(Run(tmp_path), Console(file=out, force_terminal=True, width=120, color_system=None))
    sink.log(1, "train", rollout_metrics(group([1.0, 0.0], make_sample(0, "evil\x1b]0;title\x07[bold]"))))
    sink.close()
    assert "evil?]0;title?[bold]" in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_step_costs_less_than_a_millisecond(tmp_path: Path, terminal: bool) -> None:
    metrics = [
        Metric.of(f"{metric.name}", [metric.mean], **{**dict(metric.labels), "source": f"source-{index}"})
        for index in range(18)
        for metric in step_metrics()
        if metric.label("source") == "ocr/word"
    ]
    assert len(metrics) > 900
    sink = Terminal(Run(tmp_path, 1000), Console(file=io.StringIO(), force_terminal=terminal, width=120))
    sink.log(1, "train", metrics)
    started = time.thread_time()
    for step in range(2, 102):
        sink.log(step, "train", metrics)
    seconds = time.thread_time() - started
    sink.close()
    assert seconds / 100 < 1e-3
