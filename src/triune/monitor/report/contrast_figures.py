"""The figures of a comparison: overlaid curves, differences, gains and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from triune.monitor.report.contrast import Contrast, Section, Table
from triune.monitor.report.drawing import ACCENT, INK, LINE, MUTED, Axes, Figure, clean, plain, points
from triune.monitor.report.figures import Figures, examples, panels, tables
from triune.monitor.stats import Gain

_NAMES = {
    "learning": ("Held-out accuracy", "Training reward"),
    "components": ("Reward components",),
    "differences": ("Difference: held-out accuracy", "Difference: training reward"),
}
"""The sections of each figure; the first that is there begins it."""


def contrast_figures(found: Contrast) -> Figures:
    """What there is nothing to show of is left out."""
    drawn: dict[str, Callable[[], Sequence[Figure]]] = {}
    if found.tables:
        drawn["gains"] = lambda: [page for one in found.tables for page in _gains(one)]
    for name, titles in _NAMES.items():
        chosen = [section for section in found.sections if section.title in titles]
        if chosen:
            drawn[name] = partial(_sections, chosen, found.labels)
    cases = [case for _, tasks in found.cases for task in tasks for case in task.cases[:2]]
    if cases:
        drawn["examples"] = lambda: examples(cases)
    return drawn


def _sections(chosen: Sequence[Section], labels: Sequence[str]) -> list[Figure]:
    return [page for section in chosen for page in panels(section.panels, labels, section.title)]


def _gains(compared: Table) -> list[Figure]:
    rows = [(label, gain) for kind, label, gain in compared.rows if kind != "source"]
    first, second = (" ".join(label.split()) for label in (compared.first, compared.second))
    return tables(rows, _draw_gains, f"{second}\nless {first}\npoints of accuracy, 95% interval")


def _draw_gains(axes: Axes, rows: Sequence[tuple[str, Gain]], size: float = 7.0) -> None:
    """A row each: the difference with its interval, and both in words."""
    axes.axvline(0.0, color=MUTED, lw=0.6)
    for y, (_, gain) in enumerate(rows):
        if gain.ci95 is not None:
            axes.plot([100 * bound for bound in gain.ci95], [y, y], color=ACCENT, lw=1.2)
        axes.plot([100 * gain.gain], [y], "o", color=ACCENT, markersize=4)
        text = points(gain.gain, gain.ci95)
        axes.text(
            1.02, y, text, va="center", fontsize=0.85 * size, color=INK, transform=axes.get_yaxis_transform()
        )
    axes.set_yticks(range(len(rows)), [plain(name, 24) for name, _ in rows], fontsize=size, color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    clean(axes, size)
    axes.grid(axis="x", color=LINE, lw=0.5)
