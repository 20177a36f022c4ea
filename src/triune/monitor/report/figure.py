"""The report as one picture, for a README or a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from triune.monitor.report.cases import Case
from triune.monitor.report.charts import percent
from triune.monitor.report.collect import Report
from triune.monitor.report.drawing import (
    ACCENT,
    BAD,
    BEFORE,
    INK,
    LINE,
    MUTED,
    Axes,
    SubFigure,
    canvas,
    clean,
    draw_case,
    draw_panel,
    encode,
    plain,
    points,
    style,
)
from triune.monitor.report.panels import Panel
from triune.monitor.report.results import Result

_PAPER = "#faf8f5"
_COLUMNS = 4
_HEIGHT_TITLE, _HEIGHT_ROW, _HEIGHT_CHARTS, _HEIGHT_CASES = 1.1, 0.24, 2.15, 3.1  # inches


def overview(report: Report) -> bytes:
    """PNG, 1600 pixels wide."""
    curves = [report.curves[s] for s in sorted(report.curves, key=lambda s: (report.task_of.get(s, ""), s))]
    health = list(report.health)[: 2 * _COLUMNS]
    cases = chosen_cases(report)
    rows = [*report.results.tasks.items()]
    order = ["held-out accuracy", "training reward"]
    blocks: list[tuple[bool, float, Callable[[SubFigure], None]]] = [
        (True, _HEIGHT_TITLE, lambda part: _title(part, report)),
        (bool(rows), _HEIGHT_ROW * len(rows) + 0.9, lambda part: _gains(part, rows)),
        (bool(curves), _HEIGHT_CHARTS * _rows(curves), lambda part: _panels(part, curves, order)),
        (bool(health), _HEIGHT_CHARTS * _rows(health), lambda part: _panels(part, health)),
        (bool(cases), _HEIGHT_CASES * _rows(cases), lambda part: _cases(part, cases)),
    ]
    shown = [(height, draw) for there, height, draw in blocks if there]
    heights = [height for height, _ in shown]
    with style():
        whole = canvas(16, sum(heights), _PAPER)
        # The outer columns are margins: constrained layout gives subfigures none.
        parts = whole.subfigures(
            len(shown), 3, height_ratios=heights, width_ratios=[1, 70, 1], squeeze=False, facecolor=_PAPER
        )
        for (_, draw), part in zip(shown, parts[:, 1], strict=True):
            draw(part)
        return encode([whole], "png", dpi=100)


def chosen_cases(report: Report) -> list[Case]:
    """One of each task, of each kind in turn: only improved ones would flatter the run."""
    return [task.cases[index % len(task.cases)] for index, task in enumerate(report.cases) if task.cases]


def _rows(items: Sequence[object]) -> int:
    return -(-len(items) // _COLUMNS)


def _title(part: SubFigure, report: Report) -> None:
    def say(
        x: float, y: float, text: str, size: float, colour: str, side: str = "left", bold: bool = False
    ) -> None:
        weight = "bold" if bold else "normal"
        part.text(x, y, plain(text), fontsize=size, color=colour, ha=side, va="center", fontweight=weight)

    mean = report.results.mean
    say(0.0, 0.72, report.name, 20, INK, bold=True)
    say(0.0, 0.36, "   ".join(f"{name} {value}" for name, value in report.facts.items()), 10, MUTED)
    if mean.after is not None:
        text = f"{percent(mean.before)} \N{RIGHTWARDS ARROW} {percent(mean.after)}"
        say(1.0, 0.7, text, 24, ACCENT, "right", bold=True)
        say(0.98, 0.3, f"mean over tasks, {points(mean.gain, mean.ci95)} points", 11, MUTED, "right")
    raised = [sentence for state, sentence in report.alarms if state == "holds"]
    if said := [*raised, *report.problems]:
        say(0.02, 0.06, ("! " + "  ".join(said))[:200], 10, BAD)


def _gains(part: SubFigure, rows: Sequence[tuple[str, Result]]) -> None:
    axes = part.subplots()
    axes.set_facecolor(_PAPER)
    draw_gains(axes, rows, size=10)
    title = "held-out accuracy: grey before, blue after, diamonds other evaluations"
    axes.set_title(title, fontsize=10, color=MUTED, loc="left")


def draw_gains(axes: Axes, rows: Sequence[tuple[str, Result]], size: float = 7.0) -> None:
    """A row each: before, after with the interval of the gain, other evaluations, and the gain in words."""
    for y, (_, result) in enumerate(rows):
        if result.before is not None and result.after is not None:
            axes.plot([result.before, result.after], [y, y], color=ACCENT, lw=0.2 * size, alpha=0.5, zorder=2)
            if result.ci95 is not None:
                bounds = [result.before + bound for bound in result.ci95]
                axes.plot(
                    bounds, [y, y], color=ACCENT, lw=0.9 * size, alpha=0.2, solid_capstyle="butt", zorder=1
                )
            text = f"{percent(result.after)}   {points(result.gain, result.ci95)}"
            axes.text(1.02, y, text, va="center", fontsize=size, color=INK)
        for value in result.others.values():
            axes.plot(
                [value], [y], "D", color=MUTED, markerfacecolor="white", markersize=0.5 * size, zorder=3
            )
        for at, colour, mark in ((result.before, BEFORE, "s"), (result.after, ACCENT, "o")):
            if at is not None:
                axes.plot([at], [y], mark, color=colour, markersize=0.75 * size, zorder=3)
    axes.set_yticks(range(len(rows)), [plain(name, 24) for name, _ in rows], fontsize=size, color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0%", "25%", "50%", "75%", "100%"])
    clean(axes, size)
    axes.grid(axis="x", color=LINE, lw=0.5)


def _panels(part: SubFigure, panels: Sequence[Panel], order: Sequence[str] = ()) -> None:
    grid = part.subplots(_rows(panels), _COLUMNS, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.set_facecolor("white")
        draw_panel(axes, panel, order, size=10)
        if panel.scale != "unit" or panel is panels[0]:  # the panels of one scale share their lines
            axes.legend(fontsize=7, frameon=False, labelcolor=MUTED)


def _cases(part: SubFigure, cases: Sequence[Case]) -> None:
    grid = part.subplots(_rows(cases), _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, case in zip(grid.flat, cases, strict=False):
        draw_case(axes, case, size=7.5)
