"""What the report of a run shows, read from its store and `summary.json`; no layout here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from triune.monitor.report import facts, panels
from triune.monitor.report.cases import TaskCases, choose_cases
from triune.monitor.report.panels import Panel
from triune.monitor.report.results import (
    Results,
    evaluations,
    latest_rollouts,
    other_phases,
    read_summary,
    results,
)
from triune.monitor.store import Store


@dataclass(frozen=True, slots=True)
class Report:
    """`alarms` are (state, sentence), those that hold first; `problems` are sentences."""

    name: str
    facts: Mapping[str, str]
    results: Results
    task_of: Mapping[str, str]
    curves: Mapping[str, Panel]
    components: Mapping[str, Panel]
    health: Sequence[Panel]
    cases: Sequence[TaskCases]
    alarms: Sequence[tuple[str, str]] = field(default_factory=list)
    problems: Sequence[str] = field(default_factory=list)


def collect(run_dir: Path, phases: Sequence[str] | None = None) -> Report:
    """`phases`: the evaluations beside before and after that get a column; default: all. Raises StorageError if the run cannot
    be read, RecipeError for a phase that it has not."""
    summary = read_summary(run_dir / "summary.json")
    with Store(run_dir, readonly=True) as store:
        before, after = evaluations(store)
        others = {p.removeprefix("eval-"): latest_rollouts(store, p) for p in other_phases(store, phases)}
        found = results(summary, before, after, others)
        return Report(
            name=run_dir.resolve().name,
            facts=facts.facts(store, summary),
            results=found if phases is None else found.only(list(others)),
            task_of=tasks(store),
            curves=panels.curves(store),
            components=panels.components(store),
            health=panels.health(store),
            cases=choose_cases(store, before, after),
            alarms=facts.alarms(store),
            problems=facts.problems(store),
        )


def tasks(store: Store) -> dict[str, str]:
    """Source -> task, over all phases."""
    found = {}
    for phase in store.phases():
        for source, task in store.latest("status", phase=phase, by=("source", "task")):
            found[source] = task
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))
