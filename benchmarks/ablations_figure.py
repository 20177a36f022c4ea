"""Draws the figure of docs/ablations.md from the results of benchmarks/ablations.py.

    python benchmarks/ablations_figure.py docs/results/ablations-2026-11-21.json docs/figures/ablations.png

Dots are seeds, bars are their means.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, PALE, LINE = "#1f1c19", "#a89f94", "#e7e1d9"
GREEN, BLUE, PURPLE, ORANGE, RED = "#0b7a75", "#3a76bd", "#8663b0", "#cc7a29", "#b14a72"
THRESHOLDS = {
    "iou fixed .5": ORANGE,
    "iou fixed .99": RED,
    "iou dynamic .5/.6/.7": GREEN,
    "iou dynamic .5/.75/.9": BLUE,
    "iou paper's .85/.95/.99": PURPLE,
}
TRAINED = {
    "joint": ("language", GREEN),
    "vision": ("vision and connector", RED),
    "both": ("all three", ORANGE),
}
ARMS = {
    "untrained": "untrained",
    "joint": "language,\non-policy",
    "off-policy": "language,\noff-policy",
    "vision": "vision and\nconnector",
    "both": "all three",
}

Runs = dict[str, list[dict[str, Any]]]


def title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def dots(axes: Axes, seen: Sequence[float], height: float, colour: str) -> None:
    """One row: the seeds, and their mean."""
    axes.plot(seen, [height] * len(seen), "o", color=colour, alpha=0.5, markersize=6, markeredgewidth=0)
    axes.plot(
        [fmean(seen)],
        [height],
        "|",
        color=INK if colour == PALE else colour,
        markersize=13,
        markeredgewidth=2,
    )


def rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color=LINE)


def informative(axes: Axes, runs: Runs) -> None:
    for arm, colour in THRESHOLDS.items():
        curves = [run["informative_by_tenth"] for run in runs[arm]]
        at = [100 * (i + 0.5) / len(curves[0]) for i in range(len(curves[0]))]
        for curve in curves:
            axes.plot(at, curve, color=colour, linewidth=0.7, alpha=0.45)
        middle = [fmean(column) for column in zip(*curves, strict=True)]
        axes.plot(at, middle, color=colour, linewidth=2.2, label=arm.removeprefix("iou "))
    axes.set(ylim=(0, 1.02), xlabel="% of the run")
    axes.grid(axis="y", color=LINE)
    axes.legend(fontsize=8, frameon=False)
    title(axes, "share of informative groups, box tasks")


def boxes(axes: Axes, runs: Runs) -> None:
    chosen = {"untrained": PALE, **THRESHOLDS}
    for height, (arm, colour) in enumerate(chosen.items()):
        dots(axes, [run["boxes"]["iou@75"] for run in runs[arm]], height, colour)
    rows(axes, [arm.removeprefix("iou ") for arm in chosen])
    title(axes, "final held-out IoU@75, box tasks")


def accuracy(axes: Axes, runs: Runs) -> None:
    for height, arm in enumerate(ARMS):
        dots(axes, [run["mean_accuracy"] for run in runs[arm]], height, PALE if arm == "untrained" else GREEN)
    rows(axes, list(ARMS.values()))
    title(axes, "mean held-out accuracy, eight tasks")


def gradients(axes: Axes, runs: Runs, layers: Sequence[str]) -> None:
    for arm, (name, colour) in TRAINED.items():
        norms = {
            layer: fmean(run["grad_norm"][layer] for run in runs[arm])
            for layer in layers
            if layer in runs[arm][0]["grad_norm"]
        }
        shown = [i for i, layer in enumerate(layers) if layer in norms]
        axes.plot(shown, [norms[layers[i]] for i in shown], "o-", color=colour, label=name, markersize=4)
    axes.set_yscale("log")
    axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right")
    axes.grid(axis="y", color=LINE)
    axes.legend(fontsize=8, frameon=False, title="trained", title_fontsize=8)
    title(axes, "gradient norm by layer, mean over the run")


def joint(axes: Axes, runs: Runs) -> None:
    tasks = list(runs["joint"][0]["accuracy"])
    for height, task in enumerate(tasks):
        dots(axes, [run["accuracy"][task] for run in runs["joint"]], height - 0.18, GREEN)
        dots(axes, [run["accuracy"][task] for run in runs[f"specialist {task}"]], height + 0.18, ORANGE)
        start = fmean(run["accuracy"][task] for run in runs["untrained"])
        axes.plot([start], [height], "|", color=PALE, markersize=18, markeredgewidth=2)
    rows(axes, tasks)
    title(axes, "held-out accuracy: joint (green), a specialist per task (orange), untrained (grey)")


def main(results: tyro.conf.Positional[Path], picture: tyro.conf.Positional[Path]) -> None:
    """Reads RESULTS (JSON with all four questions) and writes PICTURE (PNG)."""
    found = json.loads(results.read_text())
    runs: Runs = {arm: list(by_seed.values()) for arm, by_seed in found["runs"].items()}
    whole = Figure(figsize=(13, 7.6), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(whole)
    grid = whole.add_gridspec(2, 6)
    for place, panel in enumerate((informative, boxes, accuracy)):
        panel(whole.add_subplot(grid[0, 2 * place : 2 * place + 2]), runs)
    gradients(whole.add_subplot(grid[1, :3]), runs, found["layers"])
    joint(whole.add_subplot(grid[1, 3:]), runs)
    picture.parent.mkdir(parents=True, exist_ok=True)
    whole.savefig(picture)


if __name__ == "__main__":
    tyro.cli(main)
