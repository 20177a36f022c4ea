"""Samples to look at, as a part of the page: pictures with boxes and points, and what was said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from triune.monitor.boxes import Box, Marks, Outline
from triune.monitor.report.cases import Answer, Case, TaskCases, all_marks
from triune.monitor.report.charts import short
from triune.monitor.report.markup import Markup, join, tag
from triune.monitor.report.pictures import Picture

_SHOWN_CHARACTERS = 1500  # of a prompt or an answer
_TINY = 128  # pictures up to this many pixels a side are shown with sharp pixels
_CLASSES = {"improved": "improved", "right": "right", "regressed": "regressed", "only the second is right": "improved",
            "only the first is right": "regressed"}  # fmt: skip
"""Kinds of cases that have a colour."""


def case_sections(tasks: Sequence[TaskCases], shown: str) -> Markup | None:
    """A section per task; None where there is no case. `shown` says what they are."""
    if not any(task.cases for task in tasks):
        return None
    lead = (
        f"{shown}, chosen by a fixed rule and not by hand: from each task in turn the next sample of each kind, "
        "in sample order."
    )
    key = tag(
        "div",
        tag("span", tag("i", class_="swatch true"), "true box or point"),
        tag("span", tag("i", class_="swatch drawn"), "answered box or point"),
        class_="key",
    )
    has_marks = any(case.marks is not None for task in tasks for case in task.cases)
    sections = [tag("h2", "Pictures"), tag("p", lead, class_="lead"), key if has_marks else None]
    return join([*sections, *map(_task_cases, tasks)])


def _task_cases(task: TaskCases) -> Markup:
    counts = " · ".join(f"{count} {kind}" for kind, count in task.counts.items())
    title = tag("div", tag("h3", task.task), tag("p", counts), class_="task-title")
    return tag("section", title, tag("div", (_case(case) for case in task.cases), class_="cases"))


def _case(case: Case) -> Markup:
    on_answers = case.marks is not None
    shown = (
        None
        if on_answers or not case.pictures
        else tag("div", [_picture(picture) for picture in case.pictures], class_="shown")
    )
    return tag(
        "article",
        tag(
            "header",
            tag("span", case.kind, class_=f"kind {_CLASSES.get(case.kind, '')}".strip()),
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
    rollout, unplaced = answer.rollout, answer.marks.unplaced
    mark = {True: "✓ correct", False: "✗ wrong", None: "? not judged"}[rollout.correct]
    direction = {True: "up", False: "down", None: "flat"}[rollout.correct]
    said = tag(
        "p",
        tag("span", answer.when, class_="when") if answer.when else None,
        tag("span", mark, class_=direction),
        tag("span", f"reward {short(rollout.reward)}") if rollout.reward is not None else None,
        tag("span", rollout.status) if rollout.status != "ok" else None,
        tag("span", "truncated") if rollout.truncated else None,
        tag("span", f"{unplaced} marks that cannot be placed") if unplaced else None,
        class_="said",
    )
    shown = (
        [_picture(picture, n, case.marks, answer.marks) for n, picture in enumerate(case.pictures)]
        if with_picture
        else None
    )
    text = tag("pre", _cut(rollout.response)) if rollout.response else tag("pre", "(nothing)", class_="none")
    return tag("div", shown, said, text, class_="side")


def _picture(
    picture: Picture, number: int = 0, true: Marks | None = None, drawn: Marks | None = None
) -> Markup:
    """Picture `number` of a case, with what is marked on it."""
    width, height = picture.size
    tiny = max(width, height) <= _TINY
    image = tag("image", href=picture.uri, width=width, height=height, class_="tiny" if tiny else None)
    kinds = (("true", true), ("drawn", drawn))
    marks = [
        _mark(mark, kind)
        for kind, found in kinds
        if found
        for mark in all_marks(found)
        if mark.image == number
    ]
    return tag("svg", image, marks, viewbox=f"0 0 {width} {height}", role="img")


def _mark(mark: Box | Outline, kind: str) -> Markup:
    """A box as a rectangle, a polygon as its outline, a point as a cross."""
    if isinstance(mark, Box):
        what, shape = "box", "rect"
        place: Mapping[str, object] = {
            "x": f"{mark.x1:.2f}",
            "y": f"{mark.y1:.2f}",
            "width": f"{mark.x2 - mark.x1:.2f}",
            "height": f"{mark.y2 - mark.y1:.2f}",
        }
    elif len(mark.xy) == 1:
        ((x, y),) = mark.xy
        what, shape = "point", "path"
        place = {"d": f"M{x:.2f} {y:.2f}m-4 0h8m-4 -4v8"}
    else:
        what, shape = "polygon", "polygon"
        place = {"points": " ".join(f"{x:.2f},{y:.2f}" for x, y in mark.xy)}
    name = tag("title", f"{'true' if kind == 'true' else 'answered'} {what} {mark.label}".strip())
    return join((tag(shape, class_="box halo", **place), tag(shape, name, class_=f"box {kind}", **place)))


def _cut(text: str) -> str:
    more = len(text) - _SHOWN_CHARACTERS
    return text if more <= 0 else f"{text[:_SHOWN_CHARACTERS]} … ({more:,} more characters)"
