"""Runs the quickstart for several seeds, with credit and with credit shuffled, and prints the table of docs/quickstart.md.

    python benchmarks/quickstart_seeds.py --seeds 0 1 2 --out runs/seeds

A run whose summary exists is not repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import tyro

ARMS = {"credit": (), "shuffled": ("algo.advantage.kind=shuffled_group",)}


def run(seed: int, arm: str, out: Path) -> dict[str, Any]:
    """One quickstart in a process of its own; its summary."""
    folder = out / f"{arm}-{seed}"
    summary = folder / "summary.json"
    if not summary.exists():
        command = [
            sys.executable,
            "-m",
            "triune.quickstart",
            "--seed",
            str(seed),
            "--run-dir",
            str(folder),
            *ARMS[arm],
        ]
        with (out / f"{arm}-{seed}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    loaded: dict[str, Any] = json.loads(summary.read_text())
    return loaded


def row(seed: int, arm: str, s: dict[str, Any]) -> str:
    """One line: means over the eight tasks, the gain with its interval, its share of the way to clean, and time."""
    gain = s["mean_after"] - s["mean_before"]
    low, high = s["mean_gain_ci95"]
    share = gain / (s["mean_clean"] - s["mean_before"])
    worst = min((t["gain_ci95"][1], name) for name, t in s["tasks"].items())
    return (
        f"| {arm} | {seed} | {s['mean_before']:.3f} | {s['mean_after']:.3f} | {gain:+.3f} [{low:+.3f}, {high:+.3f}] | "
        f"{share:.0%} | {s['mean_blind']:.3f} | {worst[1]} {worst[0]:+.3f} | {s['seconds']['train']:.0f} |"
    )


def main(seeds: tuple[int, ...] = (0, 1, 2), out: Path = Path("runs/seeds")) -> None:
    """Prints one row per run.

    Args:
        seeds: of the runs; each is run in both arms.
        out: where the runs go.
    """
    out.mkdir(parents=True, exist_ok=True)
    print(
        "| credit | seed | before | after | gain [95 %] | of the way to clean | blind | lowest upper bound | train s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for seed in seeds:
        for arm in ARMS:
            print(row(seed, arm, run(seed, arm, out)), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
