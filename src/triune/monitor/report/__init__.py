"""The report of a run: one HTML page that needs nothing else (no network, no script), and the same as one picture."""

from __future__ import annotations

from pathlib import Path

from triune.monitor.disk import write
from triune.monitor.report.collect import collect
from triune.monitor.report.page import page


def write_report(run_dir: Path | str) -> tuple[Path, Path | None]:
    """Writes `report.html` and `report.png` into the run's directory and returns where they are.

    Shows what is there: a run without evaluations, or still being written, has a report too. Reads the store and, if
    present, `summary.json`; without it before and after are computed from the rollouts of the phases `eval-before`
    and `eval-after`. The picture needs matplotlib (extra `report`); without that it is None and the page is written
    all the same. Raises StorageError if the run cannot be read or the report not be written.
    """
    report = collect(Path(run_dir))
    html_path = Path(run_dir) / "report.html"
    write(html_path, page(report).encode())
    try:
        from triune.monitor.report.figure import figure
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        return html_path, None
    png_path = Path(run_dir) / "report.png"
    write(png_path, figure(report))
    return html_path, png_path
