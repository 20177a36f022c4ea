"""The report as one HTML page: no script, no network, every picture and curve inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from triune.monitor.boxes import Box
from triune.monitor.report.cases import Answer, Case, TaskCases
from triune.monitor.report.charts import dumbbell, line_chart, percent, short
from triune.monitor.report.collect import Report, Result
from triune.monitor.report.markup import Markup, join, tag
from triune.monitor.report.pictures import Picture

_SHOWN_CHARACTERS = 1500  # of a prompt or an answer
_TINY = 128  # pictures up to this many pixels a side are shown with sharp pixels

# Even if something had slipped through the escaping, the page may neither run a script nor load anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(report: Report) -> str:
    """The whole page."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{report.name} - run report"),
        tag("style", Markup(style)),
    )
    body = tag(
        "body", tag("main", _top(report), _results(report), _curves(report), _health(report), _cases(report))
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _top(report: Report) -> Markup:
    facts = (tag("div", tag("dt", name), tag("dd", value)) for name, value in report.facts.items())
    return join(
        (
            tag("p", "Run report", class_="overline"),
            tag("h1", report.name),
            tag("dl", facts, class_="facts") if report.facts else None,
            _hero(report.mean, len(report.tasks)),
            tag("ul", (tag("li", problem) for problem in report.problems), class_="problems")
            if report.problems
            else None,
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
        interval = f"points gained, 95% interval {_interval(mean)}" if mean.ci95 else "points gained"
        gained = tag("div", percent(mean.gain, signed=True), class_=f"small {_direction(mean)}")
        cells.append(tag("div", gained, tag("div", interval, class_="label")))
    for value, meaning in ((mean.clean, "clean: the ceiling"), (mean.blind, "blind: pictures hidden")):
        if value is not None:
            cells.append(
                tag("div", tag("div", percent(value), class_="small"), tag("div", meaning, class_="label"))
            )
    return tag("section", cells, class_="hero")


# Results


def _results(report: Report) -> Markup | None:
    if not report.tasks and not report.sources:
        return None
    everything = [report.mean, *report.tasks.values(), *report.sources.values()]
    extra = [name for name in ("clean", "blind") if any(getattr(r, name) is not None for r in everything)]
    rows = []
    placed: set[str] = set()
    for task, result in report.tasks.items():
        rows.append(_row(task, result, extra, "task"))
        for source, of_source in report.sources.items():
            if report.task_of.get(source, source.split("/")[0]) == task:
                placed.add(source)
                rows.append(_row(source.removeprefix(f"{task}/"), of_source, extra, "source"))
    rows += [_row(source, r, extra, "source") for source, r in report.sources.items() if source not in placed]
    if report.mean.after is not None:
        rows.append(_row("mean over tasks", report.mean, extra, "mean"))
    header = ("task and source", "samples", "before", "after", "gain", "95% interval", "", *extra)
    key = tag(
        "div",
        tag("span", tag("i", "●", class_="key-before"), " before"),
        tag(
            "span",
            tag("i", "●", class_="key-after"),
            " after, with the 95% interval of the gain over paired samples",
        ),
        tag("span", "│ clean: the same model taught without faults") if "clean" in extra else None,
        tag("span", "◇ blind: pictures hidden") if "blind" in extra else None,
        tag("span", "scale from 0 to 100%"),
        class_="key",
    )
    return join(
        (
            tag("h2", "Before and after"),
            tag("p", "Accuracy on the same held-out samples, before and after training.", class_="lead"),
            tag(
                "div", tag("table", tag("tr", (tag("th", title) for title in header)), rows), class_="scroll"
            ),
            key,
        )
    )


def _row(name: str, result: Result, extra: Sequence[str], kind: str) -> Markup:
    return tag(
        "tr",
        tag("td", name),
        tag("td", "" if result.n is None else f"{result.n:,}"),
        tag("td", percent(result.before)),
        tag("td", percent(result.after)),
        tag("td", tag("span", percent(result.gain, signed=True), class_=_direction(result))),
        tag("td", _interval(result), class_="interval-text"),
        tag("td", dumbbell(result), class_="scale"),
        (tag("td", percent(getattr(result, name))) for name in extra),
        class_=kind,
    )


def _interval(result: Result) -> str:
    return "" if result.ci95 is None else f"{100 * result.ci95[0]:+.1f} to {100 * result.ci95[1]:+.1f}"


def _direction(result: Result) -> str:
    """Coloured only where the interval leaves no doubt."""
    if result.ci95 is None:
        return ""
    low, high = result.ci95
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
        lead = "Training reward (faint: every step; bold: moving average) and accuracy on held-out samples, per source."
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


# Cases


def _cases(report: Report) -> Markup | None:
    if not any(task.cases for task in report.cases):
        return None
    compared = any(len(case.answers) > 1 for task in report.cases for case in task.cases)
    lead = (
        ("Held-out samples before and after training" if compared else "The latest answers")
        + ", chosen by a fixed rule and not by hand: from each task in turn the next sample of each kind, in sample order."
    )
    has_boxes = any(case.boxes is not None for task in report.cases for case in task.cases)
    key = tag(
        "div",
        tag("span", tag("i", class_="swatch true"), "true box"),
        tag("span", tag("i", class_="swatch drawn"), "answered box"),
        class_="key",
    )
    sections = [tag("h2", "Pictures"), tag("p", lead, class_="lead"), key if has_boxes else None]
    sections += [_task_cases(task) for task in report.cases]
    return join(sections)


def _task_cases(task: TaskCases) -> Markup:
    counts = " · ".join(f"{count} {kind}" for kind, count in task.counts.items())
    title = tag("div", tag("h3", task.task), tag("p", counts), class_="task-title")
    return tag("section", title, tag("div", (_case(case) for case in task.cases), class_="cases"))


def _case(case: Case) -> Markup:
    on_answers = case.boxes is not None and len(case.pictures) == 1
    shown = (
        None if on_answers or not case.pictures else tag("div", map(_picture, case.pictures), class_="shown")
    )
    return tag(
        "article",
        tag(
            "header",
            tag("span", case.kind, class_=f"kind {case.kind.split()[0]}"),
            tag("span", case.source),
            tag("span", case.sample, class_="id", title=case.sample),
        ),
        tag("p", _cut(case.prompt.replace("<image>", "").strip()), class_="ask"),
        tag("p", "truth ", tag("b", _cut(case.truth)), class_="truth"),
        tag(
            "div",
            shown,
            tag(
                "div",
                (_side(case, answer, on_answers) for answer in case.answers),
                class_="across" if on_answers else "stacked",
            ),
            class_="sides",
        ),
        class_="case",
    )


def _side(case: Case, answer: Answer, with_picture: bool) -> Markup:
    rollout = answer.rollout
    mark = {True: "✓ correct", False: "✗ wrong", None: "? not judged"}[rollout.correct]
    direction = {True: "up", False: "down", None: "flat"}[rollout.correct]
    said = tag(
        "p",
        tag("span", answer.when, class_="when") if answer.when else None,
        tag("span", mark, class_=direction),
        tag("span", f"reward {short(rollout.reward)}") if rollout.reward is not None else None,
        tag("span", rollout.status) if rollout.status != "ok" else None,
        tag("span", "truncated") if rollout.truncated else None,
        class_="said",
    )
    picture = _picture(case.pictures[0], case.boxes or (), answer.boxes) if with_picture else None
    text = tag("pre", _cut(rollout.response)) if rollout.response else tag("pre", "(nothing)", class_="none")
    return tag("div", picture, said, text, class_="side")


def _picture(picture: Picture, true: Sequence[Box] = (), drawn: Sequence[Box] = ()) -> Markup:
    width, height = picture.size
    tiny = max(width, height) <= _TINY
    image = tag("image", href=picture.uri, width=width, height=height, class_="tiny" if tiny else None)
    boxes = [_box(box, kind) for kind, found in (("true", true), ("drawn", drawn)) for box in found]
    return tag("svg", image, boxes, viewbox=f"0 0 {width} {height}", role="img")


def _box(box: Box, kind: str) -> Markup:
    place: Mapping[str, object] = {
        "x": f"{box.x1:.2f}",
        "y": f"{box.y1:.2f}",
        "width": f"{box.x2 - box.x1:.2f}",
        "height": f"{box.y2 - box.y1:.2f}",
    }
    name = tag("title", f"{'true' if kind == 'true' else 'answered'} box {box.label}".strip())
    return join((tag("rect", class_="box halo", **place), tag("rect", name, class_=f"box {kind}", **place)))


def _cut(text: str) -> str:
    more = len(text) - _SHOWN_CHARACTERS
    return text if more <= 0 else f"{text[:_SHOWN_CHARACTERS]} … ({more:,} more characters)"
