"""What the monitor costs: CPU time, disk, the time to open a large run, and what a kill -9 leaves behind.

    python benchmarks/monitor.py --json build/monitor.json      # needs: pip install -e '.[train,dash,tensorboard,dev]'
    python benchmarks/monitor.py --json build/monitor.json --quick

The first takes about ten minutes on two idle cores, the second about two, at a smaller scale and with the same keys.
`--only overhead files kill open` measures some of it and leaves the other keys out. See docs/monitor.md.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from monitoring.browser import build, opening
from monitoring.files import compare
from monitoring.kill import trials
from monitoring.overhead import pairs, summary
from tyro.conf import arg

Part = Literal["overhead", "files", "kill", "open"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    pairs: int
    file_steps: int
    kills: int
    sources: int
    names: int
    steps: int
    opened: int


FULL = Scale(pairs=12, file_steps=200, kills=50, sources=64, names=40, steps=5000, opened=5)
QUICK = Scale(pairs=3, file_steps=40, kills=5, sources=64, names=40, steps=200, opened=1)


def overhead(scale: Scale, folder: Path) -> dict[str, Any]:
    found = []
    for pair in pairs(folder / "overhead", scale.pairs):
        found.append(pair)
        print(
            f"overhead {len(found)}/{scale.pairs}: step {pair.off:.2f} s of CPU without, {pair.on:.2f} s with; "
            f"{pair.spent * 1000:.0f} ms by the monitor",
            flush=True,
        )
    return summary(found)


def files(scale: Scale, folder: Path) -> dict[str, Any]:
    found = compare(folder / "files", scale.sources, scale.names, scale.file_steps)
    for name in ("store", "tensorboard", "tensorboard_moments"):
        rate = found["write_rows_per_s" if name == "store" else f"{name}_rows_per_s"]
        print(
            f"files: {name}: {rate:,.0f} rows/s, {found[f'{name}_bytes_per_row']:.1f} bytes a row", flush=True
        )
    return found


def kill(scale: Scale, folder: Path) -> dict[str, Any]:
    opened = lost = 0
    for number, trial in enumerate(trials(folder / "kill", scale.kills), 1):
        opened += trial.opened
        lost += trial.lost
        print(
            f"kill {number}/{scale.kills}: flushed {trial.flushed}, found {trial.found} {list(trial.faults) or ''}",
            flush=True,
        )
    return {"kill9": {"trials": scale.kills, "opened": opened, "lost_flushed": lost}}


def open_(scale: Scale, folder: Path) -> dict[str, Any]:
    print(f"open: writing {scale.sources} sources x {scale.names} metrics x {scale.steps} steps", flush=True)
    seconds = build(folder / "runs" / "large", scale.sources, scale.names, scale.steps)
    size = sum(file.stat().st_size for file in (folder / "runs").rglob("*") if file.is_file())
    print(f"open: {size / 1e6:,.0f} MB in {seconds:.0f} s", flush=True)
    found = opening(folder / "runs", "large", scale.opened)
    print(
        f"open: {found['open_seconds']:.2f} s to open, {found['click_seconds']:.2f} s for a click", flush=True
    )
    return {**found, "open_run_bytes": size, "open_run_write_seconds": seconds}


PARTS = {"overhead": overhead, "files": files, "kill": kill, "open": open_}


def main(
    json_: Annotated[Path, arg(name="json", help="where the figures go")],
    quick: Annotated[bool, arg(help="a smaller scale, for a look")] = False,
    only: Annotated[tuple[Part, ...], arg(help="leave out the rest")] = (),
) -> None:
    """Measures what the monitor costs."""
    scale, found, started = QUICK if quick else FULL, {}, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="triune-monitor-") as folder:
        for name, measure in PARTS.items():
            if not only or name in only:
                found |= measure(scale, Path(folder))
    found["scale"] = "quick" if quick else "full"
    found["seconds"] = time.monotonic() - started
    json_.parent.mkdir(parents=True, exist_ok=True)
    json_.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{json_}: {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
