"""Metrics in long form as a folder of Parquet files, `run_dir/metrics.parquet/`, which pandas, Arrow and DuckDB read as one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from triune.monitor.disk import move, naming, write
from triune.monitor.metric import Metric
from triune.monitor.sinks import SINKS, Options, Run
from triune.monitor.sinks.lines import record

_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("phase", pa.string()),
        ("name", pa.string()),
        ("labels", pa.string()),
        ("count", pa.int64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("nonfinite", pa.int64()),
    ]
)
Steps = dict[tuple[int, str], list[dict[str, Any]]]


@SINKS.register("parquet")
class ParquetOptions(Options):
    """`metrics.parquet/` in the run's folder."""

    every: int = Field(
        20,
        ge=1,
        description="steps of training in one file: what a kill costs here, and how far readers lag; evaluations are "
        "written at once",
    )

    def open(self, run: Run) -> Parquet:
        return Parquet(run, self.every)


class Parquet:
    """A Parquet file is readable once it is whole, so steps are gathered and files put in place whole. The columns of `jsonl`;
    `labels` is JSON, moments are null where no value was finite. A step that comes again replaces what was there."""

    local = True

    def __init__(self, run: Run, every: int) -> None:
        self._folder, self._every = run.run_dir / "metrics.parquet", every
        self._waiting: Steps = {}
        self._files: dict[Path, set[tuple[int, str]]] = {}
        with naming(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for leftover in self._folder.glob("*.partial"):
                leftover.unlink()
            for file in sorted(self._folder.glob("*.parquet")):
                self._files[file] = set(_read(file))

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self._forget({(step, phase)})
        self._waiting[step, phase] = [record(step, phase, metric) for metric in metrics]
        if phase != "train" or len(self._waiting) >= self._every:
            self._write()

    def rewind(self, step: int) -> None:
        held = [*self._waiting, *(key for keys in self._files.values() for key in keys)]
        self._forget({key for key in held if key[0] > step})
        self._write()

    def close(self) -> None:
        self._write()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if any(waiting.values()):
            numbers = [int(file.stem) for file in self._files]
            self._put(self._folder / f"{max(numbers, default=0) + 1:08d}.parquet", waiting)

    def _forget(self, keys: set[tuple[int, str]]) -> None:
        for key in keys & set(self._waiting):
            del self._waiting[key]
        for file, held in list(self._files.items()):
            if not keys & held:
                continue
            left = {key: rows for key, rows in _read(file).items() if key not in keys}
            if left:
                self._put(file, left)
            else:
                with naming(file):
                    file.unlink()
                del self._files[file]

    def _put(self, file: Path, steps: Steps) -> None:
        rows = [
            one | {"labels": json.dumps(one["labels"], ensure_ascii=False)}
            for many in steps.values()
            for one in many
        ]
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer, compression="zstd")
        partial = file.with_suffix(".partial")
        write(partial, buffer.getvalue().to_pybytes())
        move(partial, file)
        self._files[file] = {key for key, many in steps.items() if many}


def _read(file: Path) -> Steps:
    found: Steps = {}
    with naming(file, reading=True):
        for one in pq.ParquetFile(file).read().to_pylist():
            found.setdefault((one["step"], one["phase"]), []).append(
                one | {"labels": json.loads(one["labels"])}
            )
    return found
