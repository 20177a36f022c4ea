"""Small-scale proofs: every mechanism in a setting where it matters, and the same run without it beside it.

    python benchmarks/proofs.py --json proofs.json
    python benchmarks/proofs.py --only topr style --seeds 0 1 2
    python benchmarks/proofs.py --show

The toys train a table of logits, the proofs whose names begin with `nano` the embedded model; all through the parts that
any run uses. `--json` gets raw values per seed: {"proofs": [{"name", "metric", "higher_is_better", "values", "control"}]}.
Every run has one thread; what is done is not run again.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import proof
import tyro
from proof.harness import ARMS, PROOFS, Proof

from triune.core.errors import TriuneError, nearest


def everything() -> None:
    """Makes all arms and claims known."""
    for found in pkgutil.iter_modules(proof.__path__):
        importlib.import_module(f"proof.{found.name}")


def chosen(only: Sequence[str]) -> list[Proof]:
    """The proofs whose names begin with one of `only`; all, if it is empty."""
    for name in only:
        if not any(one.startswith(name) for one in PROOFS):
            raise TriuneError(f"no proof begins with {name!r}: {nearest(name, PROOFS)}")
    return [one for one in PROOFS.values() if not only or one.name.startswith(tuple(only))]


def measure(arm: str, seed: int, out: Path) -> dict[str, float]:
    """The figures of one run, which is made unless they are in `out`; with the seconds it took."""
    file = out / f"{arm.replace('/', '-')}-{seed}.json"
    if not file.exists():
        started = time.process_time()
        figures = ARMS[arm](seed)
        seconds = time.process_time() - started
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures | {"seconds": round(seconds, 1)}) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {arm} {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
    loaded: dict[str, float] = json.loads(file.read_text())
    return loaded


def quiet() -> None:
    """A worker's start: one thread."""
    import torch

    torch.set_num_threads(1)
    everything()


def entry(
    one: Proof, seeds: Sequence[int], results: Mapping[tuple[str, int], Mapping[str, float]]
) -> dict[str, Any]:
    """A proof as it stands in the JSON."""
    return {
        "name": one.name,
        "metric": one.metric,
        "higher_is_better": one.higher_is_better,
        "values": [results[one.arm, seed][one.key] for seed in seeds],
        "control": [results[one.control, seed][one.key] for seed in seeds],
        "shows": one.shows,
        "arm": one.arm,
        "control_arm": one.control,
        "told": one.told,
    }


def table(entries: Iterable[Mapping[str, Any]]) -> str:
    """The table of docs/proofs.md."""

    def told(values: Sequence[float]) -> str:
        return ", ".join(f"{v:.3g}" if abs(v) < 0.01 or abs(v) >= 100 else f"{v:.3f}" for v in values)

    lines = ["| proof | measured | with | without | elsewhere |", "|---|---|---|---|---|"]
    for e in entries:
        arrow = "higher is better" if e["higher_is_better"] else "lower is better"
        lines.append(
            f"| `{e['name']}` | {e['metric']} ({arrow}) | {told(e['values'])} | {told(e['control'])} | {e['told']} |"
        )
    return "\n".join(lines)


def main(
    only: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    jobs: int = 2,
    out: Path = Path("runs/proofs"),
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    show: bool = False,
) -> None:
    """Runs what is not there yet, and prints the table.

    Args:
        only: beginnings of names; all proofs if it is empty.
        seeds: of the runs.
        jobs: runs at a time, each with one thread.
        out: where the figures of single runs are kept.
        json_file: where the raw values go.
        show: print what each proof shows, and run nothing.
    """
    everything()
    wanted = chosen(only)
    if show:
        for one in wanted:
            print(f"{one.name}: {one.shows}\n    {one.metric} of {one.arm!r} against {one.control!r}")
        return
    plan = [
        (arm, seed) for seed in seeds for arm in dict.fromkeys(a for p in wanted for a in (p.arm, p.control))
    ]
    with ProcessPoolExecutor(jobs, get_context("spawn"), quiet) as pool:
        waiting = {(arm, seed): pool.submit(measure, arm, seed, out) for arm, seed in plan}
        results = {job: done.result() for job, done in waiting.items()}
    entries = [entry(one, seeds, results) for one in wanted]
    print(table(entries))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(
            json.dumps({"proofs": entries, "seeds": seeds, "measured": about()}, indent=1) + "\n"
        )


def about() -> dict[str, Any]:
    """When, on what and with which versions."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("triune", "torch", "transformers", "numpy")},
    }


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except TriuneError as error:
        sys.exit(f"error: {error}")
