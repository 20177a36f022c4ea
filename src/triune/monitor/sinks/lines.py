"""A text file that steps are appended to as lines, whole or not at all: what `jsonl` and `csv` share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from triune.monitor.disk import naming, write
from triune.monitor.metric import Metric


def record(step: int, phase: str, metric: Metric) -> dict[str, Any]:
    """A metric as one row; moments are None where no value was finite."""
    known = bool(metric.count)
    return {
        "step": step,
        "phase": phase,
        "name": metric.name,
        "labels": dict(metric.labels),
        "count": metric.count,
        "mean": metric.mean if known else None,
        "std": metric.std if known else None,
        "min": metric.min if known else None,
        "max": metric.max if known else None,
        "nonfinite": metric.nonfinite,
    }


class Lines:
    """Appends a step in one write, so that a reader never meets half a step. Of a step that is there twice, the later
    lines count."""

    local = True
    head = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            if self._file.tell():
                self._end_torn_line()
            if not self._file.tell():
                self._append(self.head)

    @abstractmethod
    def encode(self, record: dict[str, Any]) -> str:
        """One line, its end included."""

    @abstractmethod
    def step_of(self, line: str) -> int: ...

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        with naming(self._path):
            self._append("".join(self.encode(record(step, phase, metric)) for metric in metrics))

    def rewind(self, step: int) -> None:
        with naming(self._path):
            head, lines = len(self.head), self._path.read_text(encoding="utf-8")
            kept = (line for line in _split(lines[head:]) if self.step_of(line) <= step)
            partial = self._path.with_suffix(".partial")
            write(partial, (self.head + "".join(kept)).encode())
            self._file.close()
            partial.replace(self._path)
            self._file = self._path.open("ab")

    def close(self) -> None:
        self._file.close()

    def _append(self, text: str) -> None:
        self._file.write(text.encode())
        self._file.flush()

    def _end_torn_line(self) -> None:
        """A writer that was killed within a write left half a line; it must not swallow the next one."""
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))
            self._file.seek(len(whole))


def _split(text: str) -> Iterable[str]:
    """By line feeds alone: other ends of lines may stand in names."""
    return (f"{line}\n" for line in text.split("\n")[:-1])
