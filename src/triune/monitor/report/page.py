"""The report as one HTML page: no script, no network, every picture and curve inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from triune.monitor.report.case_page import case_sections
from triune.monitor.report.charts import dumbbell, line_chart, percent
from triune.monitor.report.collect import Report
from triune.monitor.report.markup import Markup, join, tag
from triune.monitor.report.results import MEANING, Result, table_rows

# Even if something had slipped through the escaping, the page may neither run a script nor load anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(report: Report) -> str:
    """The whole page."""
    return document(
        f"{report.name} - run report",
        (_top(report), _results(report), _curves(report), _health(report), _cases(report)),
    )


def document(title: str, parts: Iterable[Markup | None]) -> str:
    """A page around these parts."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Markup(style)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", parts)), lang="en") + "\n"


def _top(report: Report) -> Markup:
    facts = (tag("div", tag("dt", name), tag("dd", value)) for name, value in report.facts.items())
    return join(
        (
            tag("p", "Run report", class_="overline"),
            tag("h1", report.name),
            tag("dl", facts, class_="facts") if report.facts else None,
            warnings(report.alarms, report.problems),
            _hero(report.results.mean, len(report.results.tasks)),
        )
    )


def warnings(alarms: Sequence[tuple[str, str]], problems: Sequence[str]) -> Markup:
    """Alarms first, then what else must not be missed."""
    raised = [tag("li", tag("b", state), sentence, class_=state) for state, sentence in alarms]
    return join(
        (
            tag("ul", raised, class_="alarms", aria_label="alarms") if raised else None,
            tag("ul", (tag("li", problem) for problem in problems), class_="problems") if problems else None,
        )
    )


def _hero(mean: Result, num_tasks: int) -> Markup | None:
    if mean.before is None and mean.after is None:
        return None
    label = (
        f"accuracy on held-out samples, mean over {num_tasks} tasks"
        if num_tasks
        else "accuracy on held-out samples"
    )
    cells = [
        tag(
            "div",
            tag(
                "div",
                tag("span", percent(mean.before), class_="from"),
                tag("span", "→", class_="arrow"),
                tag("span", percent(mean.after), class_="to"),
                class_="big",
            ),
            tag("div", label, class_="label"),
        )
    ]
    if mean.gain is not None:
        said = f"points gained, 95% interval {interval(mean.ci95)}" if mean.ci95 else "points gained"
        gained = tag("div", percent(mean.gain, signed=True), class_=f"small {direction(mean.ci95)}")
        cells.append(tag("div", gained, tag("div", said, class_="label")))
    for name, value in mean.others.items():
        meaning = tag("div", MEANING.get(name, name), class_="label")
        cells.append(tag("div", tag("div", percent(value), class_="small"), meaning))
    return tag("section", cells, class_="hero")


# Results


def _results(report: Report) -> Markup | None:
    found = report.results
    if not found.tasks and not found.sources:
        return None
    rows = [
        _row(label, result, found.others, kind) for kind, label, result in table_rows(found, report.task_of)
    ]
    header = ("task and source", "samples", "before", "after", "gain", "95% interval", "", *found.others)
    key = tag(
        "div",
        tag("span", tag("i", "●", class_="key-before"), " before"),
        tag(
            "span",
            tag("i", "●", class_="key-after"),
            " after, with the 95% interval of the gain over paired samples",
        ),
        (
            tag("span", f"{'│' if name == 'clean' else '◇'} {MEANING.get(name, name)}")
            for name in found.others
        ),
        tag("span", "scale from 0 to 100%"),
        class_="key",
    )
    unpaired = found.mean.unpaired
    missing = f" {unpaired:,} samples without a score on one side are left out." if unpaired else ""
    lead = f"Accuracy on the same held-out samples, before and after training.{missing}"
    return join((tag("h2", "Before and after"), tag("p", lead, class_="lead"), table(header, rows), key))


def table(header: Iterable[str], rows: Iterable[Markup], class_: str | None = None) -> Markup:
    """A table that scrolls where it is too wide."""
    titles = tag("tr", (tag("th", title) for title in header))
    return tag("div", tag("table", titles, rows, class_=class_), class_="scroll")


def _row(name: str, result: Result, extra: Sequence[str], kind: str) -> Markup:
    return tag(
        "tr",
        tag("td", name),
        tag("td", "" if result.n is None else f"{result.n:,}"),
        tag("td", percent(result.before)),
        tag("td", percent(result.after)),
        tag("td", tag("span", percent(result.gain, signed=True), class_=direction(result.ci95))),
        tag("td", interval(result.ci95), class_="interval-text"),
        tag("td", dumbbell(result), class_="scale"),
        (tag("td", percent(result.others.get(name))) for name in extra),
        class_=kind,
    )


def interval(ci95: tuple[float, float] | None) -> str:
    """In points: +1.2 to +3.4."""
    return "" if ci95 is None else f"{100 * ci95[0]:+.1f} to {100 * ci95[1]:+.1f}"


def direction(ci95: tuple[float, float] | None) -> str:
    """Coloured only where the interval leaves no doubt."""
    if ci95 is None:
        return ""
    low, high = ci95
    return "up" if low > 0 else "down" if high < 0 else "flat"


# Curves


def _curves(report: Report) -> Markup:
    order = sorted(report.curves, key=lambda source: (report.task_of.get(source, ""), source))
    curves = [
        line_chart(report.curves[s], [_curve_colour(line.label) for line in report.curves[s].lines])
        for s in order
    ]
    names = sorted({line.label for panel in report.components.values() for line in panel.lines})
    components = [
        line_chart(report.components[s], [names.index(line.label) for line in report.components[s].lines])
        for s in sorted(report.components, key=order.index)
    ]
    parts: list[Markup] = []
    if curves:
        lead = (
            "Training reward (faint: every step; bold: moving average, with a standard deviation of its steps) and accuracy on "
            "held-out samples (with its 95% interval over samples), per source."
        )
        parts += [tag("h2", "Learning"), tag("p", lead, class_="lead"), tag("div", curves, class_="grid-3")]
    if components:
        lead = "What the reward is made of, where it has parts: the mean value of each component, before weights."
        parts += [
            tag("h2", "Reward components"),
            tag("p", lead, class_="lead"),
            tag("div", components, class_="grid-3"),
        ]
    return join(parts)


def _curve_colour(label: str) -> int:
    return 0 if label.startswith("held-out") else 1


def _health(report: Report) -> Markup | None:
    if not report.health:
        return None
    lead = "Signs of a run that goes on while something is wrong."
    panels = tag("div", (line_chart(panel) for panel in report.health), class_="grid-3")
    return join((tag("h2", "Health"), tag("p", lead, class_="lead"), panels))


def _cases(report: Report) -> Markup | None:
    compared = any(len(case.answers) > 1 for task in report.cases for case in task.cases)
    shown = "Held-out samples before and after training" if compared else "The latest answers"
    return case_sections(report.cases, shown)
