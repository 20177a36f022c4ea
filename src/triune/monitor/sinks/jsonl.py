"""Metrics as lines of JSON in `run_dir/metrics.jsonl`, one per metric, to be followed with `tail` or read by pandas."""

from __future__ import annotations

import json
from collections.abc import Sequence

from triune.monitor.disk import naming, write
from triune.monitor.metric import Metric
from triune.monitor.sinks import SINKS, Options, Run


@SINKS.register("jsonl")
class JsonLinesOptions(Options):
    """`metrics.jsonl` in the run's folder."""

    def open(self, run: Run) -> JsonLines:
        return JsonLines(run)


class JsonLines:
    """Appends a step in one write, so that a reader never meets half a step. Of a step that is there twice, the later
    lines count. Moments are null where no value was finite."""

    local = True

    def __init__(self, run: Run) -> None:
        self._path = run.run_dir / "metrics.jsonl"
        with naming(self._path):
            run.run_dir.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
            if self._file.tell():
                self._end_torn_line()

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        lines = [
            json.dumps(
                {
                    "step": step,
                    "phase": phase,
                    "name": metric.name,
                    "labels": dict(metric.labels),
                    "count": metric.count,
                    "mean": metric.mean if metric.count else None,
                    "std": metric.std if metric.count else None,
                    "min": metric.min if metric.count else None,
                    "max": metric.max if metric.count else None,
                    "nonfinite": metric.nonfinite,
                },
                ensure_ascii=False,
            )
            for metric in metrics
        ]
        with naming(self._path):
            self._file.write("".join(line + "\n" for line in lines).encode())
            self._file.flush()

    def rewind(self, step: int) -> None:
        with naming(self._path):
            lines = self._path.read_bytes().splitlines(keepends=True)
            partial = self._path.with_suffix(".partial")
            write(partial, b"".join(line for line in lines if json.loads(line)["step"] <= step))
            self._file.close()
            partial.replace(self._path)
            self._file = self._path.open("ab")

    def close(self) -> None:
        self._file.close()

    def _end_torn_line(self) -> None:
        """A writer that was killed within a write left half a line; it must not swallow the next one."""
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))
