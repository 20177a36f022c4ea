"""Reports: of one run, and of several beside each other. A page that needs nothing else (no network, no script), tables in
Markdown, and figures to print."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from triune.core.errors import RecipeError
from triune.monitor.disk import write

if TYPE_CHECKING:
    from triune.monitor.report.figures import Figures

# The rest is imported where it is used: the command line names this package before it knows what is asked.
Format = Literal["html", "md", "overview", "png", "pdf"]
FORMATS: tuple[Format, ...] = get_args(Format)
_DRAWN = frozenset({"overview", "png", "pdf"})

FIGURES = ("gains", "learning", "components", "health", "examples", "differences")
"""The names that a figure can have; which there are depends on what was logged."""


def write_report(
    run_dir: Path | str, formats: Sequence[Format] | None = None, phases: Sequence[str] | None = None
) -> list[Path]:
    """Writes the report of a run into its folder and returns the files: `report.html`, `report.md`, `report.png` (an
    overview) and the figures `report/NAME.png` and `report/NAME.pdf`.

    Shows what is there: a run without evaluations, or still being written, has a report too. Reads the store and, if
    present, `summary.json`; without it before and after are computed from the rollouts of the phases `eval-before`
    and `eval-after`. `phases`: other evaluations that get a column, by default all. Pictures need matplotlib (extra `report`);
    without it they are left out with a warning, or a RecipeError if `formats` asks for them. Raises StorageError if the
    run cannot be read or the report not be written.
    """
    from triune.monitor.report import markdown
    from triune.monitor.report.collect import collect
    from triune.monitor.report.page import page

    run_dir, chosen = Path(run_dir), _formats(formats)
    report = collect(run_dir, phases)
    if "html" in chosen:
        write(run_dir / "report.html", page(report).encode())
    if "overview" in chosen:
        from triune.monitor.report.figure import overview

        write(run_dir / "report.png", overview(report))
    figures: Figures = {}
    if {"png", "pdf"} & set(chosen):
        from triune.monitor.report.figures import run_figures

        figures = run_figures(report)
    drawn = _write_figures(run_dir / "report", figures, chosen)
    if "md" in chosen:
        names = [f"report/{file.name}" for file in drawn]
        write(run_dir / "report.md", markdown.of_run(report, names).encode())
    pages = {"html": "report.html", "md": "report.md", "overview": "report.png"}
    return [*(run_dir / name for kind, name in pages.items() if kind in chosen), *drawn]


def write_comparison(
    runs: Sequence[Path | str],
    out: Path | str,
    formats: Sequence[Format] | None = None,
    phases: Sequence[str] | None = None,
    *,
    each: bool = False,
) -> tuple[list[Path], list[str]]:
    """Writes the comparison of several runs into a folder: `comparison.html`, `comparison.md`, `NAME.png` and `NAME.pdf`. Returns
    the files, and why held-out answers could not be compared where they could not.

    Runs whose recipes differ in name and seed alone are seeds of one configuration; with `each` every run stands for itself.
    The first named is what the others are compared with. Errors as in `write_report`.
    """
    from triune.monitor.report import contrast_page, markdown
    from triune.monitor.report.contrast import contrast

    out, chosen = Path(out), _formats(formats)
    found = contrast([Path(run) for run in runs], phases, each=each)
    figures: Figures = {}
    if {"png", "pdf"} & set(chosen):
        from triune.monitor.report.contrast_figures import contrast_figures

        figures = contrast_figures(found)
    drawn = _write_figures(out, figures, chosen)
    if "html" in chosen:
        write(out / "comparison.html", contrast_page.page(found).encode())
    if "md" in chosen:
        write(out / "comparison.md", markdown.of_contrast(found, [file.name for file in drawn]).encode())
    pages = [out / f"comparison.{kind}" for kind in ("html", "md") if kind in chosen]
    return [*pages, *drawn], list(found.refused)


def _formats(asked: Sequence[Format] | None) -> Sequence[Format]:
    chosen = FORMATS if asked is None else asked
    if not _DRAWN & set(chosen) or find_spec("matplotlib") is not None:
        return chosen
    need = "figures need matplotlib: pip install 'triune[report]'"
    if asked is not None:
        raise RecipeError(need)
    warnings.warn(f"only the page and the tables are written; {need}", stacklevel=3)
    return ("html", "md")


def _write_figures(folder: Path, figures: Figures, chosen: Iterable[Format]) -> list[Path]:
    """Writes the figures, in place of those of an earlier report."""
    kinds = [kind for kind in ("png", "pdf") if kind in chosen]
    ours = re.compile(rf"(?:{'|'.join(FIGURES)})(?:-\d+)?\.(?:{'|'.join(kinds)})")
    for file in folder.glob("*") if kinds else ():
        if ours.fullmatch(file.name):
            file.unlink()
    if not figures:
        return []
    from triune.monitor.report.figures import encoded

    written = []
    for name, data in encoded(figures, kinds):
        write(folder / name, data)
        written.append(folder / name)
    return written
