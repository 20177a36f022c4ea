"""The comparison of several runs as one HTML page: no script, no network, every picture and curve inside."""

from __future__ import annotations

from triune.monitor.report.case_page import case_sections
from triune.monitor.report.charts import forest, line_chart, percent
from triune.monitor.report.contrast import Contrast, Section, Table, shown_value
from triune.monitor.report.markup import Markup, join, tag
from triune.monitor.report.page import direction, document, interval, table, warnings
from triune.monitor.stats import Gain


def page(found: Contrast) -> str:
    """The whole page."""
    parts = [
        _top(found),
        *map(_table, found.tables),
        _recipe(found),
        *(_section(section, found.labels) for section in found.sections),
        *(case_sections(cases, title) for title, cases in found.cases),
    ]
    return document(f"{found.title} - comparison", parts)


def _top(found: Contrast) -> Markup:
    rows = [
        tag(
            "tr",
            tag("td", run.label),
            tag("td", one.label),
            tag("td", "–" if run.seed is None else run.seed),
            (tag("td", said) for said in found.state[run.label]),
            class_="source",
        )
        for one in found.configurations
        for run in one.runs
    ]
    header = ("run", "configuration", "seed", "steps", "held-out answers")
    lead = "Runs whose recipes differ in name and seed alone are seeds of one configuration."
    told = [
        join((tag("h3", label), warnings(alarms, problems)))
        for label, alarms, problems in found.warnings
        if alarms or problems
    ]
    refused = [tag("li", tag("b", "Not compared. "), reason) for reason in found.refused]
    return join(
        (
            tag("p", "Comparison of runs", class_="overline"),
            tag("h1", found.title),
            tag("ul", refused, class_="problems refused") if refused else None,
            tag("h2", "Runs"),
            tag("p", lead, class_="lead"),
            table(header, rows, "recipe"),
            (tag("h2", "Alarms and problems"), told) if told else None,
        )
    )


def _table(compared: Table) -> Markup:
    header = (
        "task and source",
        "samples",
        compared.first,
        compared.second,
        "difference",
        "95% interval",
        "",
        "left out",
    )
    widest = max(
        (abs(bound) for _, _, gain in compared.rows for bound in (gain.gain, *(gain.ci95 or ()))), default=1.0
    )
    rows = [_row(kind, label, gain, widest or 1.0) for kind, label, gain in compared.rows]
    return join((tag("h2", compared.title), tag("p", compared.note, class_="lead"), table(header, rows)))


def _row(kind: str, label: str, gain: Gain, widest: float) -> Markup:
    return tag(
        "tr",
        tag("td", label),
        tag("td", f"{gain.n:,}"),
        tag("td", percent(gain.before)),
        tag("td", percent(gain.after)),
        tag("td", tag("span", percent(gain.gain, signed=True), class_=direction(gain.ci95))),
        tag("td", interval(gain.ci95), class_="interval-text"),
        tag("td", forest(gain.gain, gain.ci95, widest), class_="scale"),
        tag("td", f"{gain.unpaired:,}" if gain.unpaired else ""),
        class_=kind,
    )


def _recipe(found: Contrast) -> Markup | None:
    if not found.recipe:
        return None
    rows = [
        tag("tr", tag("td", row.key), (tag("td", shown_value(row.values, label)) for label in found.labels))
        for row in found.recipe
    ]
    return join(
        (tag("h2", "What the recipes say differently"), table(("key", *found.labels), rows, "recipe"))
    )


def _section(section: Section, labels: list[str]) -> Markup:
    charts = [
        line_chart(panel, [labels.index(line.label) for line in panel.lines]) for panel in section.panels
    ]
    return join(
        (tag("h2", section.title), tag("p", section.lead, class_="lead"), tag("div", charts, class_="grid-3"))
    )
