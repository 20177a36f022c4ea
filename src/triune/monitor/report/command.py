"""`triune report`: the report of one run, or the comparison of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from triune.core.errors import RecipeError
from triune.monitor.report import Format, write_comparison, write_report


def report(
    runs: Annotated[
        Positional[tuple[Path, ...]],
        arg(metavar="RUN [RUN ...]", help="folders of runs; several are compared"),
    ],
    *,
    out: Annotated[
        Path | None,
        arg(help="several runs: where the comparison goes; default: `comparison` beside the first run"),
    ] = None,
    formats: Annotated[
        tuple[Format, ...] | None, arg(help="what to write; png and pdf are the figures; default: all")
    ] = None,
    phases: Annotated[
        tuple[str, ...] | None,
        arg(help="evaluations to show beside before and after, eval-blind ...; default: all that there are"),
    ] = None,
    each: Annotated[
        bool, arg(help="several runs: every run for itself; default: seeds of one recipe together")
    ] = False,
) -> int:
    """Write a run's report, or compare runs: curves, tables and samples on one page, in Markdown, and as figures to print.

    One run: report.html, report.md and report.png go into its folder, figures into its folder `report`. Several: the
    comparison goes into --out; the first run is what the others are compared with. Exit code 1 if the runs answered
    other held-out samples, so that these are not compared.
    """
    say = Console(highlight=False, soft_wrap=True)
    if not runs:
        raise RecipeError("name a run: triune report RUN [RUN ...]")
    for run in runs:
        if not run.is_dir():
            raise RecipeError(f"{run} is not the folder of a run")
    refused: list[str] = []
    if len(runs) == 1:
        if out is not None or each:
            raise RecipeError("--out and --each are of several runs; the report of one goes into its folder")
        files = write_report(runs[0], formats, phases)
    else:
        folder = out or runs[0].resolve().parent / "comparison"
        files, refused = write_comparison(runs, folder, formats, phases, each=each)
    for file in files:
        say.print(str(file), markup=False)
    for reason in refused:
        say.print(f"not compared: {reason}", markup=False)
    return 1 if refused else 0
