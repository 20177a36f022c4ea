"""Metrics as lines of JSON in `run_dir/metrics.jsonl`, one per metric, to be followed with `tail` or read by pandas."""

from __future__ import annotations

import json
from typing import Any

from triune.monitor.sinks import SINKS, Options, Run
from triune.monitor.sinks.lines import Lines


@SINKS.register("jsonl")
class JsonLinesOptions(Options):
    """`metrics.jsonl` in the run's folder."""

    def open(self, run: Run) -> JsonLines:
        return JsonLines(run)


class JsonLines(Lines):
    """One object per metric; moments are null where no value was finite."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.run_dir / "metrics.jsonl")

    def encode(self, record: dict[str, Any]) -> str:
        return json.dumps(record, ensure_ascii=False) + "\n"

    def step_of(self, line: str) -> int:
        return int(json.loads(line)["step"])
