"""Several runs beside each other: what their recipes say differently, their curves on one axis, their held-out answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from triune.core.errors import TriuneError
from triune.monitor.bands import HELD_OUT, Curve, band, curves, difference
from triune.monitor.compare import Configuration, Evaluation, Run, evaluation, gather, paired, recipe_diff
from triune.monitor.dash.reading import AllRuns, Json, Remembered, number, numbers
from triune.monitor.runs import RunFolder, Runs
from triune.monitor.stats import Gain

router = APIRouter()

MAX_RUNS = 32
"""As many as there are looks of a curve."""
HELD_OUT_PHASE = "held-out"
"""Stands for the phases of one held-out curve together."""

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Chosen:
    """The runs that were asked for and can be read, as configurations, and why the others cannot."""

    folders: Mapping[Path, RunFolder]
    configurations: Sequence[Configuration]
    problems: list[Json]

    @property
    def runs(self) -> list[Run]:
        """In the order in which they were asked for."""
        known = {run.path: run for one in self.configurations for run in one.runs}
        return [known[path] for path in self.folders]

    def name(self, run: Run) -> str:
        return self.folders[run.path].name

    def stamp(self) -> str:
        return " ".join(f"{path}:{folder.stamp}" for path, folder in self.folders.items())


def chosen(
    runs: AllRuns,
    names: Annotated[list[str], Query(alias="run", min_length=1, description="names")],
) -> Chosen:
    if len(names) > MAX_RUNS:
        raise ValueError(f"at most {MAX_RUNS} runs are compared at once, and {len(names)} were chosen")
    folders: dict[Path, RunFolder] = {}
    known: dict[Path, str] = {}
    problems = []
    for name in dict.fromkeys(names):
        try:
            folder = runs.open(name)
            if (real := folder.path.resolve()) in known:
                problems.append({"run": name, "why": f"this is {known[real]} under another name"})
                continue
            with runs.reading(name):
                gather([folder.path])
        except TriuneError as error:
            problems.append({"run": name, "why": str(error)})
        else:
            folders[folder.path], known[real] = folder, name
    return Chosen(folders, gather(list(folders)), problems)


ChosenRuns = Annotated[Chosen, Depends(chosen)]


@router.get("/api/compare")
def outline(runs: AllRuns, chosen: ChosenRuns) -> Json:
    """The runs, which of them are seeds of one configuration, and what there is to compare."""
    metrics: dict[str, dict[str, int]] = {}
    for run in chosen.runs:
        with runs.reading(chosen.name(run)) as store:
            for phase in store.phases():
                for name in store.names(phase):
                    counts = metrics.setdefault(HELD_OUT_PHASE if phase in HELD_OUT else phase, {})
                    counts[name] = counts.get(name, 0) + 1
    return {
        **_recipes(chosen),
        "configurations": [
            {"name": one.label, "runs": [chosen.name(run) for run in one.runs]}
            for one in chosen.configurations
        ],
        "metrics": {phase: sorted(names) for phase, names in sorted(metrics.items())},
        "stamps": {folder.name: folder.news for folder in chosen.folders.values()},
    }


@router.get("/api/compare/recipes")
def recipes(chosen: ChosenRuns) -> Json:
    """The keys in which the recipes differ, with the value in each run as JSON text, null where a recipe lacks it."""
    return _recipes(chosen)


def _recipes(chosen: Chosen) -> Json:
    bare = [
        {"run": chosen.name(run), "why": "it has no recipe.yaml, so its recipe cannot be compared"}
        for run in chosen.runs
        if run.recipe is None
    ]
    return {
        "runs": [
            {"name": chosen.name(run), "seed": run.seed, "live": chosen.folders[run.path].live}
            for run in chosen.runs
        ],
        "diff": [
            {"key": row.key, "values": [_said(row.values, run.label) for run in chosen.runs]}
            for row in recipe_diff(chosen.runs)
        ],
        "problems": chosen.problems + bare,
    }


def _said(values: Mapping[str, Any], label: str) -> str | None:
    return json.dumps(values[label], ensure_ascii=False, default=str) if label in values else None


@router.get("/api/compare/curves")
def lines(
    runs: AllRuns,
    chosen: ChosenRuns,
    name: str = "reward",
    phase: str = "train",
    by: str = "source",
    seeds: bool = False,
    against: str = "",
    since: int | None = None,
    until: int | None = None,
    points: Annotated[int, Query(ge=10, le=1000, description="of each curve")] = 200,
) -> Json:
    """A metric of every run, one panel for each value of the label `by` ('': one panel).

    `seeds`: mean and band over the seeds of a configuration in place of its runs. `against`: the run (or, with `seeds`, the
    configuration) that is subtracted; the band is then that of the others alone. `missing`: runs without such a metric.
    """
    phases = HELD_OUT if phase == HELD_OUT_PHASE else (phase,)
    labels = (by,) if by else ()
    read: dict[Path, dict[Keys, Curve]] = {}
    for run in chosen.runs:
        with runs.reading(chosen.name(run)) as store:
            found = curves(store, name, phases=phases, by=labels, since=since, until=until, points=points)
        read[run.path] = {key: curve for key, curve in found.items() if len(curve)}
    groups = (
        {one.label: [run.path for run in one.runs] for one in chosen.configurations}
        if seeds
        else {chosen.name(run): [run.path] for run in chosen.runs}
    )
    if against and against not in groups:
        raise ValueError(f"{against!r} is none of {', '.join(groups)}")
    panels = []
    for key in sorted({key for found in read.values() for key in found}):
        here = {
            label: [read[path][key] for path in paths if key in read[path]] for label, paths in groups.items()
        }
        drawn = _panel({label: group for label, group in here.items() if group}, against)
        panels.append({"key": key[0] if key else "", "curves": drawn})
    missing = [chosen.name(run) for run in chosen.runs if not read[run.path]]
    return {"panels": panels, "missing": missing, "groups": list(groups)}


def _panel(groups: Mapping[str, Sequence[Curve]], against: str) -> list[Json]:
    if against:
        if against not in groups:
            return []
        base = band(groups[against])
        zero = Curve(base.steps, base.mean)
        groups = {
            label: [difference(zero, curve) for curve in group]
            for label, group in groups.items()
            if label != against
        }
    drawn = []
    for label, group in groups.items():
        found = band(group)
        row: Json = {
            "label": label, "n": found.n, "kind": found.kind, "made": found.made, "step": found.steps.tolist(),
            "mean": numbers(found.mean.tolist()),
        }  # fmt: skip
        if found.kind:
            row |= {"low": numbers(found.low.tolist()), "high": numbers(found.high.tolist())}
        drawn.append(row)
    return drawn


@router.get("/api/compare/held-out")
def held_out(
    runs: AllRuns, memo: Remembered, chosen: ChosenRuns, against: str = "", seeds: bool = False
) -> Json:
    """Held-out answers, paired by sample, with 95 % intervals: every other run, or configuration, less the one `against`
    (default: the first). `problems`: why a run that can be read cannot be compared."""
    groups = (
        {one.label: list(one.runs) for one in chosen.configurations}
        if seeds
        else {chosen.name(run): [run] for run in chosen.runs}
    )
    if not groups:
        return {"against": "", "comparisons": [], "problems": []}
    against = against if against in groups else next(iter(groups))
    key = ("held-out", tuple(groups), against, seeds, tuple(chosen.folders))
    return memo.get(key, chosen.stamp(), lambda: _held_out(runs, chosen, groups, against))


def _held_out(runs: Runs, chosen: Chosen, groups: Mapping[str, Sequence[Run]], against: str) -> Json:
    problems = []
    answers: dict[str, list[Evaluation]] = {}
    for label, group in groups.items():
        for run in group:
            with runs.reading(name := chosen.name(run)) as store:
                found = evaluation(store, name)
            if found is None:
                problems.append(
                    {"run": name, "why": "no held-out answers were kept yet, so none can be compared"}
                )
            else:
                answers.setdefault(label, []).append(found)
    rows = []
    for label, answered in answers.items():
        if label == against or against not in answers:
            continue
        row: Json = {"name": label, "at": _when(answered), "base_at": _when(answers[against])}
        try:
            gains = paired(answers[against], answered)
        except TriuneError as error:
            problems.append({"run": label, "why": str(error)})
            continue
        row["mean"] = _gain("mean over tasks", gains.mean)
        row["tasks"] = [_gain(name, gain) for name, gain in gains.tasks.items()]
        row["sources"] = [_gain(name, gain) for name, gain in gains.sources.items()]
        rows.append(row)
    return {"against": against, "comparisons": rows, "problems": problems}


def _when(group: Sequence[Evaluation]) -> str:
    return ", ".join(dict.fromkeys(f"{one.phase} at step {one.step}" for one in group))


def _gain(name: str, gain: Gain) -> Json:
    return {
        "name": name, "before": number(gain.before), "after": number(gain.after), "gain": number(gain.gain),
        "ci95": numbers(gain.ci95) if gain.ci95 else None, "n": gain.n, "unpaired": gain.unpaired, "covers": gain.covers,
    }  # fmt: skip
