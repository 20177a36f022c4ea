"""Metrics in long form in `run_dir/metrics.csv`, one row per metric, to be read by pandas or a spreadsheet at any time."""

from __future__ import annotations

import json
from typing import Any

from triune.monitor.sinks import SINKS, Options, Run
from triune.monitor.sinks.lines import Lines

COLUMNS = ("step", "phase", "name", "labels", "count", "mean", "std", "min", "max", "nonfinite")


@SINKS.register("csv")
class CsvOptions(Options):
    """`metrics.csv` in the run's folder."""

    def open(self, run: Run) -> Csv:
        return Csv(run)


class Csv(Lines):
    """The columns of `jsonl`; `labels` is JSON, and moments are empty where no value was finite."""

    head = ",".join(COLUMNS) + "\n"

    def __init__(self, run: Run) -> None:
        super().__init__(run.run_dir / "metrics.csv")

    def encode(self, record: dict[str, Any]) -> str:
        # JSON escapes every end of a line, so that a row is one line whatever a label holds.
        texts = {"name": record["name"], "labels": json.dumps(record["labels"], ensure_ascii=False)}
        cells = (
            _quoted(texts[name]) if name in texts else "" if record[name] is None else str(record[name])
            for name in COLUMNS
        )
        return ",".join(cells) + "\n"

    def step_of(self, line: str) -> int:
        return int(line.partition(",")[0])


def _quoted(text: str) -> str:
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
