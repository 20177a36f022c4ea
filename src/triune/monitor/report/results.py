"""The headline table of a run: held-out accuracy before and after, per task and source; no layout here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from triune.core.errors import RecipeError, StorageError, nearest
from triune.monitor.disk import naming
from triune.monitor.rollouts import Rollout
from triune.monitor.stats import Gain, Score, paired_gains
from triune.monitor.store import Store

_ORDER = ("clean", "blind", "swapped", "halved")
"""Columns beside before and after, in this order; others follow by name."""

MEANING = {
    "clean": "clean: the same model taught without faults",
    "blind": "blind: pictures hidden",
    "swapped": "swapped: another sample's picture",
    "halved": "halved: pictures at half their resolution",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the headline table: accuracies in [0, 1]; None where not measured. `ci95` belongs to the gain. `others` are
    the accuracies of other evaluations by name: `clean`, and what the phases `eval-NAME` found (blind, swapped, ...)."""

    before: float | None = None
    after: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    ci95: tuple[float, float] | None = None
    n: int | None = None
    unpaired: int = 0

    @property
    def gain(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True)
class Results:
    """The mean over tasks (each counts once), the tasks, the sources, and the names of the columns in `others`."""

    mean: Result = field(default_factory=Result)
    tasks: Mapping[str, Result] = field(default_factory=dict)
    sources: Mapping[str, Result] = field(default_factory=dict)

    @property
    def others(self) -> list[str]:
        rows = (self.mean, *self.tasks.values(), *self.sources.values())
        return ordered({name for row in rows for name in row.others})

    def only(self, names: Sequence[str]) -> Results:
        """With these columns alone beside before and after."""

        def cut(row: Result) -> Result:
            return replace(row, others={name: row.others[name] for name in names if name in row.others})

        tasks, sources = ({k: cut(row) for k, row in rows.items()} for rows in (self.tasks, self.sources))
        return Results(cut(self.mean), tasks, sources)


def table_rows(found: Results, task_of: Mapping[str, str]) -> list[tuple[str, str, Result]]:
    """The rows of the headline table in order: kind (`task`, `source`, `mean`), label, and the row."""
    rows: list[tuple[str, str, Result]] = []
    placed: set[str] = set()
    for task, result in found.tasks.items():
        rows.append(("task", task, result))
        for source, of_source in found.sources.items():
            if task_of.get(source, source.split("/")[0]) == task:
                placed.add(source)
                rows.append(("source", source.removeprefix(f"{task}/"), of_source))
    rows += [("source", source, row) for source, row in found.sources.items() if source not in placed]
    if found.mean.after is not None:
        rows.append(("mean", "mean over tasks", found.mean))
    return rows


def ordered(names: Iterable[str]) -> list[str]:
    """Names of evaluations as columns."""
    return sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def read_summary(path: Path) -> dict[str, Any]:
    """`summary.json`, {} where there is none; raises StorageError for one that is no object."""
    if not path.exists():
        return {}
    try:
        with naming(path, reading=True):
            found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise StorageError(f"{path} must hold an object with tasks and sources")
    return found


def number(value: object) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def latest_rollouts(store: Store, phase: str) -> list[Rollout]:
    steps = store.rollout_steps(phase)
    return store.rollouts(phase, steps[-1]) if steps else []


def evaluations(store: Store) -> tuple[list[Rollout], list[Rollout]]:
    """Rollouts before and after training; without such phases, those of the first and last evaluation on the way."""
    before, after = latest_rollouts(store, "eval-before"), latest_rollouts(store, "eval-after")
    on_the_way = store.rollout_steps("eval")
    if not before and len(on_the_way) > 1:
        before = store.rollouts("eval", on_the_way[0])
    if not after and on_the_way:
        after = store.rollouts("eval", on_the_way[-1])
    return before, after


def other_phases(store: Store, chosen: Sequence[str] | None = None) -> list[str]:
    """The phases `eval-NAME` beside before and after, as columns are ordered: all, or the chosen ones. Raises RecipeError for
    one that the run has not."""
    there = [phase for phase in store.phases() if phase.startswith("eval-")]
    there = [phase for phase in there if phase not in ("eval-before", "eval-after")]
    for phase in chosen or ():
        if phase not in there:
            raise RecipeError(
                f"{store.run_dir} has no evaluation {phase!r} beside before and after: {nearest(phase, there)}"
            )
    names = ordered(phase.removeprefix("eval-") for phase in (there if chosen is None else chosen))
    return [f"eval-{name}" for name in names]


def results(
    summary: Mapping[str, Any],
    before: Sequence[Rollout],
    after: Sequence[Rollout],
    others: Mapping[str, Sequence[Rollout]],
) -> Results:
    """As summarised, else computed from the rollouts; `others` are the rollouts of other evaluations by their name."""
    scores = {name: _scores(rollouts) for name, rollouts in others.items()}
    if summary:
        tasks, sources = (
            {str(name): _result(row) for name, row in (summary.get(key) or {}).items()}
            for key in ("tasks", "sources")
        )
        mean = _result(summary, "mean_")
        mean = replace(mean, n=sum(task.n or 0 for task in tasks.values()) or None)
    else:
        first, second = _scores(before), _scores(after)
        if not {score.sample for score in first} & {score.sample for score in second}:
            return Results()
        gains = paired_gains(first, second)
        tasks = {name: _of(gain) for name, gain in gains.tasks.items()}
        sources = {name: _of(gain) for name, gain in gains.sources.items()}
        mean = _of(gains.mean)
    tasks = {name: _beside(row, scores, task=name) for name, row in tasks.items()}
    sources = {name: _beside(row, scores, source=name) for name, row in sources.items()}
    over_tasks = {
        name: average
        for name in scores
        if name not in mean.others
        and (average := _mean(row.others[name] for row in tasks.values() if name in row.others)) is not None
    }
    return Results(replace(mean, others={**mean.others, **over_tasks}), tasks, sources)


def _of(gain: Gain) -> Result:
    return Result(gain.before, gain.after, ci95=gain.ci95, n=gain.n, unpaired=gain.unpaired)


def _beside(row: Result, scores: Mapping[str, Sequence[Score]], **label: str) -> Result:
    """The row with the means of the other evaluations that it does not hold yet."""
    found = dict(row.others)
    for name, seen in scores.items():
        chosen = [s.value for s in seen if all(getattr(s, key) == value for key, value in label.items())]
        if name not in found and (mean := _mean(chosen)) is not None:
            found[name] = mean
    return replace(row, others=found)


def _result(row: Mapping[str, Any], prefix: str = "") -> Result:
    n = number(row.get("n"))
    return Result(
        before=number(row.get(prefix + "before")),
        after=number(row.get(prefix + "after")),
        others={name: value for name in _ORDER if (value := number(row.get(prefix + name))) is not None},
        ci95=_interval(row.get(prefix + "gain_ci95")),
        n=None if n is None else int(n),
    )


def _interval(value: object) -> tuple[float, float] | None:
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    low, high = map(number, value)
    return None if low is None or high is None else (low, high)


def _scores(rollouts: Iterable[Rollout]) -> list[Score]:
    """Accuracy per rollout; what nobody could judge is left out, and shows in the statuses."""
    return [Score(r.sample, r.source, r.task, r.accuracy) for r in rollouts if r.accuracy is not None]


def _mean(values: Iterable[float]) -> float | None:
    seen = list(values)
    return sum(seen) / len(seen) if seen else None
