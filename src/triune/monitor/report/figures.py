"""Figures for papers, each a file with a stable name: PNG to look at, PDF with embedded fonts to print.

Widths are those of a column and of a page of the usual two-column paper. A figure with more panels than a page holds goes on
on further pages: of one PDF, and of PNGs numbered from 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from triune.monitor.report.cases import Case
from triune.monitor.report.collect import Report
from triune.monitor.report.drawing import (
    INK,
    MUTED,
    Axes,
    Figure,
    canvas,
    draw_case,
    draw_panel,
    encode,
    key,
    plain,
    style,
)
from triune.monitor.report.figure import chosen_cases, draw_gains
from triune.monitor.report.panels import Panel
from triune.monitor.report.results import table_rows

COLUMN, PAGE = 3.35, 6.9  # inches: 85 and 175 mm
_ACROSS, _DOWN = 3, 5  # panels of a page
_ROWS = 40  # of a table as a figure

Row = TypeVar("Row")

Figures = Mapping[str, Callable[[], Sequence[Figure]]]
"""The pages of each figure by its name; made when they are asked for."""


def run_figures(report: Report) -> Figures:
    """Of one run; what there is nothing to show of is left out."""
    order = sorted(report.curves, key=lambda source: (report.task_of.get(source, ""), source))
    curves = [report.curves[source] for source in order]
    components = [report.components[source] for source in sorted(report.components, key=order.index)]
    names = sorted({line.label for panel in components for line in panel.lines})
    rows = [
        (label, row) for kind, label, row in table_rows(report.results, report.task_of) if kind != "source"
    ]
    cases = chosen_cases(report)
    found: dict[str, Callable[[], Sequence[Figure]]] = {}
    if rows:
        found["gains"] = lambda: tables(rows, draw_gains, "held-out accuracy")
    if curves:
        found["learning"] = lambda: panels(curves, ["held-out accuracy", "training reward"])
    if components:
        found["components"] = lambda: panels(components, names)
    if report.health:
        found["health"] = lambda: panels(report.health)
    if cases:
        found["examples"] = lambda: examples(cases)
    return found


def encoded(figures: Figures, kinds: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """File names and bytes of these figures, in each of the kinds `png` and `pdf`."""
    for name, make in figures.items():
        with style():
            pages = make()
            if "png" in kinds:
                for number, page in enumerate(pages, 1):
                    yield f"{name}.png" if number == 1 else f"{name}-{number}.png", encode([page], "png")
            if "pdf" in kinds:
                yield f"{name}.pdf", encode(pages, "pdf")


def panels(chosen: Sequence[Panel], order: Sequence[str] = (), title: str = "") -> list[Figure]:
    """Small multiples over the width of a page. With `order` one legend above tells what the lines are; else each panel has
    its own."""
    pages = []
    for start in range(0, len(chosen), _ACROSS * _DOWN):
        part = chosen[start : start + _ACROSS * _DOWN]
        rows = -(-len(part) // _ACROSS)
        page = canvas(PAGE, 1.4 * rows + 0.35)
        grid = page.subplots(
            rows, _ACROSS, squeeze=False, sharey=all(panel.scale == "unit" for panel in part)
        )
        for axes in grid.flat[len(part) :]:
            axes.set_axis_off()
        for index, (axes, panel) in enumerate(zip(grid.flat, part, strict=False)):
            draw_panel(axes, panel, order)
            if index + _ACROSS >= len(part):
                axes.set_xlabel("step", fontsize=6.5, color=MUTED)
            if not order:
                axes.legend(fontsize=5.5, frameon=False, labelcolor=MUTED)
        shown = {line.label for panel in part for line in panel.lines}
        if order:
            lines, labels = key(order, shown)
            legend = page.legend(
                lines, labels, loc="outside upper left", ncols=4, fontsize=6.5, frameon=False, labelcolor=INK
            )
            if title:
                legend.set_title(title)
                legend.get_title().set_fontsize(8)
                legend.set_alignment("left")
        pages.append(page)
    return pages


def tables(rows: Sequence[Row], draw: Callable[[Axes, Sequence[Row]], None], title: str) -> list[Figure]:
    """Rows with marks on one scale, a column wide."""
    pages = []
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        page = canvas(COLUMN, 0.17 * len(part) + 0.7)
        axes = page.subplots()
        draw(axes, part)
        said = "\n".join(plain(line, 62) for line in title.split("\n"))
        page.suptitle(said, fontsize=6.5, color=MUTED, x=0.01, ha="left")
        pages.append(page)
    return pages


def examples(cases: Sequence[Case]) -> list[Figure]:
    """Samples with their pictures, the width of a page."""
    pages = []
    for start in range(0, len(cases), 12):
        part = cases[start : start + 12]
        rows = -(-len(part) // 3)
        page = canvas(PAGE, 2.15 * rows)
        grid = page.subplots(rows, 3, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, case in zip(grid.flat, part, strict=False):
            draw_case(axes, case, size=5, caption=58)
        pages.append(page)
    return pages
