"""Opening a Parquet file full of pictures: seconds, and memory above the import baseline: at the peak, and held after.

    python benchmarks/large_file.py

Each point runs in a fresh process. `cached` keeps the pictures of the file on disk (what triune does with files above
64 MiB), `in memory` keeps them as they are read; a second opening finds them on disk already.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from PIL import Image

SIDE = 260
"""Pixels of a picture's side: noise, which PNG cannot compress, of some 200 kB."""


def write(path: Path, rows: int) -> None:
    """Row groups of a hundred, as Hugging Face writes pictures."""
    rng = np.random.default_rng(0)
    table = []
    for _ in range(rows):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(buffer, format="PNG")
        table.append(
            {"images": [{"bytes": buffer.getvalue(), "path": None}], "problem": "<image>What?", "answer": "1"}
        )
    pq.write_table(pa.Table.from_pylist(table), path, row_group_size=100)


def measure(path: Path, large: int) -> tuple[float, float, float]:
    """(seconds, MB above the baseline at the peak, MB above it afterwards) of opening the file in this process."""
    from triune.data import reading
    from triune.data.adapters import ADAPTERS
    from triune.data.source import TableSource

    reading.LARGE, adapter = large, ADAPTERS["easyr1"](kind="easyr1")
    before, started = _mb("VmRSS"), time.perf_counter()
    source = TableSource(str(path), adapter)
    source.sample(source.num_samples // 2).media[0].image()
    seconds = time.perf_counter() - started
    pa.default_memory_pool().release_unused()
    return seconds, _mb("VmHWM") - before, _mb("VmRSS") - before


def _mb(name: str) -> float:
    """Resident memory of this process, now or at its peak (Linux); `getrusage` would count the parent's before the fork."""
    (line,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def main(rows: tuple[int, ...] = (250, 500, 1000), json_file: Path | None = None, child: str = "") -> None:
    """Prints a table.

    Args:
        rows: numbers of rows to measure.
        json_file: where the figures go as JSON.
        child: used by the script itself.
    """
    if child:
        path, large = child.split("|")
        print(json.dumps(measure(Path(path), int(large))))
        return
    points = []
    print(f"{'file MB':>8} {'pictures':>16} {'seconds':>8} {'peak MB':>8} {'held MB':>8}")
    for count in rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            write(path, count)
            size = path.stat().st_size / 1e6
            for label, large in (("in memory", 1 << 60), ("cached, first", 0), ("cached, again", 0)):
                command = [sys.executable, __file__, "--child", f"{path}|{large}"]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=_with_cache(folder)
                )
                seconds, peak, held = json.loads(done.stdout)
                points.append(
                    {"file_mb": size, "pictures": label, "seconds": seconds, "peak_mb": peak, "held_mb": held}
                )
                print(f"{size:8.0f} {label:>16} {seconds:8.1f} {peak:8.0f} {held:8.0f}")
    if json_file is not None:
        json_file.write_text(json.dumps({"points": points}, indent=1))


def _with_cache(folder: str) -> dict[str, str]:
    return {**os.environ, "TRIUNE_CACHE": f"{folder}/cache"}


if __name__ == "__main__":
    tyro.cli(main)
