"""Reports as Markdown tables. Whatever comes from data or models is text: it cannot become markup, a link, a formula or a
new cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from triune.monitor.report.charts import percent
from triune.monitor.report.collect import Report
from triune.monitor.report.contrast import Contrast, Table, shown_value
from triune.monitor.report.page import interval
from triune.monitor.report.results import MEANING, table_rows

# Entities where Markdown dialects disagree about backslashes, or would still split a cell or make a formula.
_ESCAPES = {
    **{c: f"\\{c}" for c in "*_[]#"},
    **{c: f"&#{ord(c)};" for c in "|`$~\\@"},
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
}


def text(value: object) -> str:
    """One line of text, whatever is in it."""
    line = " ".join(str(value).split()) or "(empty)"
    shown = "".join(_ESCAPES.get(c, c) if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    # Words that dialects turn into links.
    return shown.replace("://", "&#58;//").replace("www.", "www&#46;")


def table(header: Sequence[object], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others to the right; cells are Markdown already."""
    lines = [[text(title) for title in header], ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def of_run(report: Report, figures: Sequence[str] = ()) -> str:
    """The report of one run; `figures` are the paths of its figures, relative to it."""
    found = report.results
    parts = [f"# {text(report.name)}\n", *_facts(report.facts), *_warnings(report.alarms, report.problems)]
    if rows := table_rows(found, report.task_of):
        cells = [
            [
                f"{'' if kind == 'source' else '**'}{text(label)}{'' if kind == 'source' else '**'}",
                "" if row.n is None else str(row.n),
                percent(row.before),
                percent(row.after),
                percent(row.gain, signed=True),
                interval(row.ci95),
                *(percent(row.others.get(name)) for name in found.others),
            ]
            for kind, label, row in rows
        ]
        header = ("task and source", "samples", "before", "after", "gain", "95 % interval", *found.others)
        said = ["Gains are in points; their intervals are over samples, paired before and after."]
        said += [f"{text(MEANING[name])}." for name in found.others if name in MEANING]
        if found.mean.unpaired:
            said.append(f"{found.mean.unpaired} samples without a score on one side are left out.")
        parts += ["## Before and after\n", table(header, cells), " ".join(said) + "\n"]
    return "\n".join([*parts, *_figures(figures)])


def of_contrast(found: Contrast, figures: Sequence[str] = ()) -> str:
    """The comparison of several runs."""
    rows = [
        [
            text(run.label),
            text(one.label),
            text("-" if run.seed is None else run.seed),
            *map(text, found.state[run.label]),
        ]
        for one in found.configurations
        for run in one.runs
    ]
    parts = [
        f"# {text(found.title)}\n",
        table(("run", "configuration", "seed", "steps", "held-out answers"), rows),
        *(f"**Not compared:** {text(reason)}\n" for reason in found.refused),
    ]
    for compared in found.tables:
        parts += [f"## {text(compared.title)}\n", _compared(compared), f"{text(compared.note)}\n"]
    if found.recipe:
        labels = [one.label for one in found.configurations]
        cells = [
            [text(row.key), *(text(shown_value(row.values, label)) for label in labels)]
            for row in found.recipe
        ]
        parts += ["## What the recipes say differently\n", table(("key", *labels), cells)]
    for label, alarms, problems in found.warnings:
        if said := _warnings(alarms, problems):
            parts += [f"## {text(label)}\n", *said]
    return "\n".join([*parts, *_figures(figures)])


def _compared(compared: Table) -> str:
    header = (
        "task and source",
        "samples",
        compared.first,
        compared.second,
        "difference",
        "95 % interval",
        "left out",
    )
    cells = [
        [
            f"{'' if kind == 'source' else '**'}{text(label)}{'' if kind == 'source' else '**'}",
            str(gain.n),
            percent(gain.before),
            percent(gain.after),
            percent(gain.gain, signed=True),
            interval(gain.ci95),
            str(gain.unpaired),
        ]
        for kind, label, gain in compared.rows
    ]
    return table(header, cells)


def _facts(facts: Mapping[str, str]) -> list[str]:
    return (
        [table(("fact", "value"), [[text(name), text(value)] for name, value in facts.items()])]
        if facts
        else []
    )


def _warnings(alarms: Sequence[tuple[str, str]], problems: Sequence[str]) -> list[str]:
    parts = []
    if alarms:
        parts.append(
            "### Alarms\n\n" + "".join(f"- **{text(state)}**: {text(said)}\n" for state, said in alarms)
        )
    if problems:
        parts.append("### Problems\n\n" + "".join(f"- {text(said)}\n" for said in problems))
    return parts


def _figures(files: Sequence[str]) -> list[str]:
    return ["## Figures\n\n" + "".join(f"- [{text(file)}]({file})\n" for file in files)] if files else []
