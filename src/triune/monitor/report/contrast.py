"""What a comparison of several runs shows, read from their stores; no layout here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from triune.core.errors import DataError, RecipeError, nearest
from triune.monitor.bands import HELD_OUT, Band, Curve, band, curves, difference
from triune.monitor.compare import (
    NOT_THE_CONFIGURATION,
    Configuration,
    Difference,
    Evaluation,
    evaluation,
    gather,
    paired,
    recipe_diff,
)
from triune.monitor.report import facts
from triune.monitor.report.cases import TaskCases, choose_differing
from triune.monitor.report.collect import tasks
from triune.monitor.report.panels import FEW, Line, Panel, smooth
from triune.monitor.report.results import other_phases
from triune.monitor.stats import Covers, Gain, Gains
from triune.monitor.store import Store

ABSENT = "(not there)"

COVERS: Mapping[Covers, str] = {
    "samples": "Intervals are over samples, paired: they say how far these trained policies are apart on samples of this "
    "kind. With a single run on a side they say nothing of what other seeds would give.",
    "seeds and samples": "Intervals are over seeds and samples, paired by sample: they say what other seeds of the same recipes "
    "would give on samples of this kind (Student's t after Welch and Satterthwaite).",
}

Scale = Literal["unit", "share", "free"]


@dataclass(frozen=True, slots=True)
class Table:
    """Held-out accuracy of two sides: rows are kind (`task`, `source`, `mean`), label, and the paired gain."""

    title: str
    first: str
    second: str
    rows: Sequence[tuple[str, str, Gain]]
    note: str


@dataclass(frozen=True, slots=True)
class Section:
    """Charts of one kind, by their title."""

    title: str
    lead: str
    panels: Sequence[Panel]


@dataclass(slots=True)
class Contrast:
    """`state`: of each run its steps and its held-out evaluation, in words. `refused`: why held-out answers were not compared.
    `warnings`: of each run its alarms and problems. `cases`: samples that two sides answered otherwise, by a title."""

    configurations: Sequence[Configuration]
    state: dict[str, tuple[str, str]] = field(default_factory=dict)
    recipe: Sequence[Difference] = ()
    tables: list[Table] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    cases: list[tuple[str, Sequence[TaskCases]]] = field(default_factory=list)
    warnings: list[tuple[str, Sequence[tuple[str, str]], Sequence[str]]] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        return [one.label for one in self.configurations]

    @property
    def title(self) -> str:
        shown = self.labels[:3]
        return " and ".join(shown) + (f" and {len(self.labels) - 3} more" if len(self.labels) > 3 else "")


def contrast(runs: Sequence[Path], phases: Sequence[str] | None = None, *, each: bool = False) -> Contrast:
    """`phases`: evaluations beside the held-out one that are compared too, by default all that both sides have; `each`: every run
    for itself. Errors as those of `gather`; RecipeError for a phase that no run has."""
    configurations = gather(runs)
    if each:
        configurations = [Configuration(run.label, (run,)) for one in configurations for run in one.runs]
    found = Contrast(configurations, recipe=_recipe(configurations, each))
    with ExitStack() as opened:
        stores = {run.label: opened.enter_context(run.store()) for one in configurations for run in one.runs}
        before = {label: first_evaluation(store, label) for label, store in stores.items()}
        after = {label: evaluation(store, label) for label, store in stores.items()}
        for label, store in stores.items():
            found.state[label] = (str(max(store.steps(), default=0)), _said(after[label]))
            found.warnings.append((label, facts.alarms(store), facts.problems(store)))
        task_of = {source: task for store in stores.values() for source, task in tasks(store).items()}
        _compare(found, after, task_of, "Held-out answers")
        for phase in _shared(stores, phases):
            others = {label: evaluation(store, label, [phase]) for label, store in stores.items()}
            _compare(found, others, task_of, f"Answers of {phase}")
        for one in configurations:
            ends = [_of(one, before), _of(one, after)]
            if len(one.runs) > 1 and all(len(end) == len(one.runs) for end in ends):
                _add(found, f"Before and after training: {one.label}", ("before", "after"), ends, task_of)
        found.sections = list(_sections(configurations, stores, task_of))
        if not found.refused:
            found.cases = list(_cases(configurations, stores, after))
    return found


def first_evaluation(store: Store, label: str) -> Evaluation | None:
    """How the run began: `eval-before`, else the first of several evaluations on the way."""
    if found := evaluation(store, label, ["eval-before"]):
        return found
    steps = store.rollout_steps("eval")
    return Evaluation(label, "eval", steps[0], store.rollouts("eval", steps[0])) if len(steps) > 1 else None


def shown_value(values: Mapping[str, Any], label: str) -> str:
    """A value of a recipe on one line, not too long."""
    if label not in values:
        return ABSENT
    value = json.dumps(values[label], ensure_ascii=False)
    return value if len(value) <= 80 else f"{value[:60]}... ({len(value)} characters)"


def _recipe(configurations: Sequence[Configuration], each: bool) -> list[Difference]:
    named = {one.runs[0].label: one.label for one in configurations}
    rows = recipe_diff([one.runs[0] for one in configurations])
    return [
        Difference(row.key, {named[run]: value for run, value in row.values.items()})
        for row in rows
        if each or row.key not in NOT_THE_CONFIGURATION
    ]


def _said(found: Evaluation | None) -> str:
    if found is None:
        return "none"
    return f"{len(found.samples)} samples, {found.phase} at step {found.step}"


def _of(one: Configuration, found: Mapping[str, Evaluation | None]) -> list[Evaluation]:
    return [held for run in one.runs if (held := found[run.label]) is not None]


def _shared(stores: Mapping[str, Store], phases: Sequence[str] | None) -> list[str]:
    there = list(dict.fromkeys(phase for store in stores.values() for phase in other_phases(store)))
    for phase in phases or ():
        if phase not in there:
            raise RecipeError(
                f"no run has an evaluation {phase!r} beside before and after: {nearest(phase, there)}"
            )
    return there if phases is None else list(phases)


# Tables


def _compare(
    found: Contrast, held: Mapping[str, Evaluation | None], task_of: Mapping[str, str], what: str
) -> None:
    """Every configuration with the first, where both have answers."""
    base, *others = found.configurations
    for other in others:
        sides = [_of(base, held), _of(other, held)]
        if all(sides):
            _add(
                found,
                f"{what}: {other.label} against {base.label}",
                (base.label, other.label),
                sides,
                task_of,
            )


def _add(
    found: Contrast,
    title: str,
    names: tuple[str, str],
    sides: Sequence[Sequence[Evaluation]],
    task_of: Mapping[str, str],
) -> None:
    try:
        gains = paired(*sides)
    except DataError as error:
        found.refused.append(f"{title}: {error}")
        return
    steps = {one.step for side in sides for one in side}
    note = COVERS[gains.mean.covers]
    if names != ("before", "after") and len(steps) > 1:
        note += f" Mind that these answers are of different steps: {', '.join(map(str, sorted(steps)))}."
    found.tables.append(Table(title, *names, _rows(gains, task_of), note))


def _rows(gains: Gains, task_of: Mapping[str, str]) -> list[tuple[str, str, Gain]]:
    rows: list[tuple[str, str, Gain]] = []
    for task, gain in gains.tasks.items():
        rows.append(("task", task, gain))
        rows += [
            ("source", source, one) for source, one in gains.sources.items() if task_of.get(source) == task
        ]
    return [*rows, ("mean", "mean over tasks", gains.mean)]


# Curves


def _sections(
    configurations: Sequence[Configuration], stores: Mapping[str, Store], task_of: Mapping[str, str]
) -> Iterator[Section]:
    kinds: list[tuple[str, str, Sequence[str], Sequence[str]]] = [
        ("Held-out accuracy", "accuracy", HELD_OUT, ("source",)),
        ("Training reward", "reward", ("train",), ("source",)),
        ("Reward components", "component", ("train",), ("source", "component")),
    ]
    for title, name, phases, by in kinds:
        seen = {label: curves(store, name, phases=phases, by=by) for label, store in stores.items()}
        keys = sorted(
            {key for of in seen.values() for key in of}, key=lambda key: (task_of.get(key[0], ""), key)
        )
        overlaid, apart = [], []
        bands: set[tuple[str, int]] = set()
        for key in keys:
            found = {
                one.label: band(chosen)
                for one in configurations
                if (chosen := [seen[run.label][key] for run in one.runs if key in seen[run.label]])
            }
            bands |= {(one.kind, one.n) for one in found.values() if one.kind}
            shown = ", ".join(key)
            overlaid.append(Panel(shown, [_line(label, one) for label, one in found.items()], scale="unit"))
            base = found.get(configurations[0].label)
            lines = [
                _difference(label, base, one)
                for label, one in found.items()
                if base is not None and one is not base
            ]
            apart.append(Panel(shown, [line for line in lines if line.points]))
        if overlaid:
            yield Section(title, _lead(bands), overlaid)
        if by == ("source",) and any(panel.lines for panel in apart):
            lead = f"Mean over seeds less that of {configurations[0].label}, at steps that both have covered."
            yield Section(f"Difference: {title.lower()}", lead, [panel for panel in apart if panel.lines])


def _line(label: str, found: Band) -> Line:
    steps = found.steps.tolist()
    mean, low, high = (
        list(zip(steps, of.tolist(), strict=True)) for of in (found.mean, found.low, found.high)
    )
    line = Line(label, mean)
    if not found.kind:
        return line
    if len(mean) > FEW:  # the line is shown as a moving average, and so are its bounds
        low, high = smooth(low), smooth(high)
    return replace(line, band=[(step, a, b) for (step, a), (_, b) in zip(low, high, strict=True)])


def _difference(label: str, base: Band, other: Band) -> Line:
    found = difference(Curve(base.steps, base.mean), Curve(other.steps, other.mean))
    return Line(label, list(zip(found.steps.tolist(), found.values.tolist(), strict=True)))


def _lead(bands: set[tuple[str, int]]) -> str:
    said = {
        "min-max": "from the least to the greatest seed",
        "t95": "95 % interval of the mean over seeds",
    }
    words = [f"{said[kind]} ({n} seeds)" for kind, n in sorted(bands)]
    return "One line per configuration" + (
        f": the mean over its seeds, up to the step that all have reached. Band: {'; '.join(words)}."
        if words
        else "."
    )


# Cases


def _cases(
    configurations: Sequence[Configuration],
    stores: Mapping[str, Store],
    after: Mapping[str, Evaluation | None],
) -> Iterator[tuple[str, Sequence[TaskCases]]]:
    """Of each configuration with the first: the first pair of runs that answered the same samples."""
    base, *others = configurations
    for other in others:
        pairs = (
            (one, two)
            for one in _of(base, after)
            for two in _of(other, after)
            if one.samples.keys() & two.samples.keys()
        )
        if (pair := next(pairs, None)) is not None:
            one, two = pair
            chosen = choose_differing(stores[one.run], one.rollouts, two.rollouts, (one.run, two.run))
            if chosen:
                yield f"{one.run} and {two.run} answer otherwise", chosen
