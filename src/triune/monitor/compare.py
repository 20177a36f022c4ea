"""Several runs beside each other: which of them are seeds of one configuration, what their recipes say differently, and how
their held-out answers differ sample by sample. No drawing here; curves are in `bands.py`, intervals in `seeds.py`.

Recipes are read as text and never loaded: comparing a stranger's runs runs none of their plug-ins.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from triune.core.errors import DataError, StorageError
from triune.core.loading import flat, read
from triune.core.provenance import RECIPE_FILE
from triune.monitor.rollouts import Rollout
from triune.monitor.seeds import Block, effect
from triune.monitor.stats import Gain, Gains, name_seed
from triune.monitor.store import Store

NOT_THE_CONFIGURATION = ("name", "seed")
"""The keys of a recipe in which seeds of one configuration may differ."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder. `label` tells it from the others that it was gathered with; `recipe` is every key, dotted, as it was
    resolved, and None for a run without a `recipe.yaml`."""

    label: str
    path: Path
    recipe: Mapping[str, Any] | None

    @property
    def seed(self) -> int | None:
        return None if self.recipe is None else self.recipe.get("seed")

    def store(self) -> Store:
        """Its store, to read; raises StorageError if there is none."""
        return Store(self.path, readonly=True)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Runs whose recipes differ in name and seed alone, and in seed for sure."""

    label: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of the recipe and its value in each run, by the run's label; a run whose recipe has no such key is left out."""

    key: str
    values: Mapping[str, Any]


def gather(paths: Sequence[Path | str]) -> list[Configuration]:
    """The runs in these folders, as configurations in the order in which they are first named.

    A second run of the same seed, and a run without a recipe, is a configuration of its own: it says nothing of the spread
    between seeds. Raises StorageError for a folder without a store or named twice, RecipeError for a broken recipe.
    """
    folders = [Path(path) for path in paths]
    known: dict[Path, Path] = {}
    for folder in folders:
        if not (folder / "metrics.sqlite").is_file():
            raise StorageError(f"{folder} is not the folder of a run: it has no metrics.sqlite")
        if (real := folder.resolve()) in known:
            raise StorageError(f"{known[real]} and {folder} are one run; name it once")
        known[real] = folder
    found: dict[str, list[Run]] = {}
    for label, folder in zip(_labels(list(known)), folders, strict=True):
        file = folder / RECIPE_FILE
        run = Run(label, folder, dict(flat(read(file).values)) if file.is_file() else None)
        of = f"run {label}" if run.recipe is None else _configuration(run.recipe)
        while any(run.seed == other.seed for other in found.get(of, ())):
            of += " again"
        found.setdefault(of, []).append(run)
    groups = list(found.values())
    return [Configuration(label, tuple(runs)) for label, runs in zip(_named(groups), groups, strict=True)]


def recipe_diff(runs: Sequence[Run]) -> list[Difference]:
    """The keys in which the recipes of these runs differ, in the recipe's order; runs without a recipe are not asked."""
    known = {run.label: run.recipe for run in runs if run.recipe is not None}
    rows = []
    for key in dict.fromkeys(key for recipe in known.values() for key in recipe):
        values = {label: recipe[key] for label, recipe in known.items() if key in recipe}
        if len(values) < len(known) or len({json.dumps(value) for value in values.values()}) > 1:
            rows.append(Difference(key, values))
    return rows


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return ["/".join(part.strip("/") for part in folder.parts[-depth:]) for folder in folders]


def _configuration(recipe: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in recipe.items() if key not in NOT_THE_CONFIGURATION}
    return json.dumps(kept, sort_keys=True)


def _named(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A name for each configuration: of a single run its label; of seeds the recipe's name, with what tells it from others of
    that name."""
    names = []
    for runs in groups:
        name = str((runs[0].recipe or {}).get("name", runs[0].label))
        same = [of[0] for of in groups if len(of) > 1 and str((of[0].recipe or {}).get("name")) == name]
        told = [row for row in recipe_diff(same) if row.key not in NOT_THE_CONFIGURATION]
        values = [f"{row.key}={json.dumps(row.values.get(runs[0].label))[:30]}" for row in told[:2]]
        names.append(runs[0].label if len(runs) == 1 else " ".join([name, *values]))
    if len(set(names)) == len(names):
        return names
    return [
        runs[0].label if len(runs) == 1 else f"{runs[0].label} and {len(runs) - 1} more" for runs in groups
    ]


# Held-out answers


Key = tuple[str, str, str]
"""Task, source and id of a sample."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The held-out answers of a run at one step of one phase."""

    run: str
    phase: str
    step: int
    rollouts: Sequence[Rollout]

    @cached_property
    def samples(self) -> dict[Key, Rollout]:
        """One rollout of each sample, judged or not."""
        found: dict[Key, Rollout] = {}
        for rollout in self.rollouts:
            found.setdefault((rollout.task, rollout.source, rollout.sample), rollout)
        return found

    @cached_property
    def scores(self) -> dict[Key, float]:
        """The accuracy of each sample, the mean over its rollouts; those that nobody could judge are not there."""
        seen: dict[Key, list[float]] = {}
        for rollout in self.rollouts:
            if (value := rollout.accuracy) is not None:
                seen.setdefault((rollout.task, rollout.source, rollout.sample), []).append(value)
        return {key: float(np.mean(values)) for key, values in seen.items()}


def evaluation(store: Store, label: str, phases: Sequence[str] = ("eval-after", "eval")) -> Evaluation | None:
    """The last kept evaluation of the first of these phases that has one; by default how the run ended, or stands. None if
    there is none."""
    for phase in phases:
        if steps := store.rollout_steps(phase):
            return Evaluation(label, phase, steps[-1], store.rollouts(phase, steps[-1]))
    return None


def paired(first: Sequence[Evaluation], second: Sequence[Evaluation], *, seed: int = 0) -> Gains:
    """By how much `second` is better than `first` on the same samples: per source, per task and the mean over tasks.

    Each holds the evaluations of the seeds of one configuration, or of the same runs at another time. Runs that answered the
    same samples are compared on those that all of them have a score for; seeds with samples of their own are compared
    with the runs of the other side that have the same ones, and then averaged. `Gain.covers` says what an interval covers,
    `unpaired` counts the samples left out. Raises DataError if a sample of one id is not the same in all, or none is in both.
    """
    if not first or not second:
        raise DataError("a comparison needs an evaluation on either side")
    everything = [*first, *second]
    _same_content(everything)
    panels = _panels(everything)
    sides = [
        ([one for one in first if one in panel], [one for one in second if one in panel]) for panel in panels
    ]
    common = [
        sorted(set.intersection(*(set(one.scores) for one in panel))) if all(side) else []
        for panel, side in zip(panels, sides, strict=True)
    ]
    if not any(common):
        raise DataError(_disjoint(first, second))
    unpaired = [
        key
        for panel, keys in zip(panels, common, strict=True)
        for key in sorted({key for one in panel for key in one.samples}.difference(keys))
    ]

    def gains(label: Callable[[Key], str]) -> dict[str, Gain]:
        names = sorted({label(key) for keys in common for key in keys})
        missing = Counter(map(label, unpaired))
        return {
            name: _gain(
                sides, [[k for k in keys if label(k) == name] for keys in common], missing[name], name_seed(name, seed),
                lambda key: 0,
            )
            for name in names
        }  # fmt: skip

    tasks = sorted({task for keys in common for task, _, _ in keys})
    return Gains(
        tasks=gains(lambda key: key[0]),
        sources=gains(lambda key: key[1]),
        mean=_gain(sides, common, len(unpaired), seed, lambda key: tasks.index(key[0])),
    )


Sides = Sequence[tuple[Sequence[Evaluation], Sequence[Evaluation]]]


def _gain(
    sides: Sides, common: Sequence[Sequence[Key]], unpaired: int, seed: int, stratum: Callable[[Key], int]
) -> Gain:
    blocks = []
    for (one, other), keys in zip(sides, common, strict=True):
        if keys:
            values = [
                np.array([[of.scores[key] for key in keys] for of in side], np.float64)
                for side in (one, other)
            ]
            matched = [of.run for of in one] == [of.run for of in other]
            strata = np.array([stratum(key) for key in keys], np.int64)
            blocks.append(Block(values[0], values[1], strata, matched))
    found = effect(blocks, seed=seed)
    seen = np.concatenate([side.ravel() for block in blocks for side in (block.first, block.second)])
    most = max(1.0, float(seen.max())) - min(
        0.0, float(seen.min())
    )  # no difference of accuracies can be larger
    ci95 = found.ci95 and (max(-most, found.ci95[0]), min(most, found.ci95[1]))
    return Gain(found.first, found.second, found.gain, ci95, sum(map(len, common)), unpaired, found.covers)


def _panels(everything: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Runs that answered the same samples: of two in one panel the smaller has at least half of its samples in the other."""
    panels: list[list[Evaluation]] = []
    for one in everything:
        mine = one.samples.keys()
        near = [
            panel
            for panel in panels
            if any(2 * len(mine & of.samples.keys()) >= min(len(mine), len(of.samples)) > 0 for of in panel)
        ]
        panels = [panel for panel in panels if panel not in near]
        panels.append([*(of for panel in near for of in panel), one])
    return panels


def _content(rollout: Rollout) -> dict[str, object]:
    return {
        "prompt": rollout.prompt,
        "truth": json.dumps([rollout.truth, rollout.truth_frame], sort_keys=True),
        "pictures": rollout.media,
    }


def _same_content(everything: Sequence[Evaluation]) -> None:
    known: dict[Key, tuple[str, dict[str, object]]] = {}
    for one in everything:
        wrong = []
        for key, rollout in one.samples.items():
            run, before = known.setdefault(key, (one.run, _content(rollout)))
            if run != one.run and (changed := [k for k, v in _content(rollout).items() if v != before[k]]):
                wrong.append(f"sample {key[2]!r} of {key[1]} is not the same in {run}: {', '.join(changed)}")
        if wrong:
            raise DataError(
                f"{one.run} was evaluated on other held-out samples of the same names ({len(wrong)}): {wrong[0]}; compare runs "
                "that were evaluated on the same data"
            )


def _disjoint(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> str:
    said = []
    for one in (first[0], second[0]):
        sources = sorted({source for _, source, _ in one.samples})
        example = min((sample for _, _, sample in one.samples), default="")
        judged = "" if one.scores else ", none of them judged"
        said.append(
            f"{one.run} answered {len(one.samples)} samples{judged} of {', '.join(sources[:3])}"
            f"{', ...' if len(sources) > 3 else ''}, the first {example!r}"
        )
    return (
        f"no judged held-out sample is in both: {'; '.join(said)}; evaluate both on the same data, drawn by the "
        "same seed"
    )
