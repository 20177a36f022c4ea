"""Judging saved rollouts again, in this process: debug a reward without a model, without workers, without a cluster."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from triune.core.errors import DataError
from triune.core.provenance import RECIPE_FILE
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.verdict import Outcome, Verdict
from triune.data.source import Source, open_sources
from triune.monitor.rollouts import Rollout, from_parquet
from triune.verify.judge import Judge

TOLERANCE = 1e-9


@dataclass
class Tally:
    """One component of one source, over all rollouts that were judged again."""

    count: int = 0
    before: list[float] = field(default_factory=list)
    now: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    changed: int = 0


@dataclass(frozen=True)
class Change:
    """A rollout whose verdict is not what it was."""

    rollout: Rollout
    verdict: Verdict


@dataclass
class Rejudged:
    """`tallies` by (source, component); `missing` counts rollouts whose sample the recipe's data no longer has."""

    tallies: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    changes: list[Change] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)


def rejudge(path: Path) -> Rejudged:
    """Judges every saved rollout under a run's folder, or in one of its rollout files, by the run's recipe and data.

    Checks, parameters and truth come from the samples as the data holds them now, so that a mended reward can be tried
    on what was already generated. Raises DataError when there are no rollouts or no recipe beside them.
    """
    files, run_dir = _locate(path)
    recipe = Recipe.load(run_dir / RECIPE_FILE)
    sources = [
        source
        for split in ("train", "heldout")
        for source, _ in open_sources(recipe.data, recipe.seed, split)
    ]
    result = Rejudged()
    with Judge(workers=0) as judge:
        for file in files:
            for group in _groups(from_parquet(file)):
                sample = find(sources, group[0].sample)
                if sample is None:
                    result.missing[group[0].source] += len(group)
                    continue
                phase = "train" if group[0].phase == "train" else "eval"
                total = max(recipe.train.total_steps, group[0].step)
                progress = Progress(step=group[0].step, total_steps=total, phase=phase)
                verdicts = judge.judge(sample, [outcome(rollout) for rollout in group], progress)
                for rollout, verdict in zip(group, verdicts, strict=True):
                    _count(result, rollout, verdict)
    return result


def find(sources: Iterable[Source], id: str) -> Sample | None:
    """The sample with this id in any of the sources."""
    return next((found for source in sources if (found := source.find(id)) is not None), None)


def outcome(rollout: Rollout) -> Outcome:
    """What the verifiers saw of a saved rollout (an environment's rewards are not saved with it)."""
    return Outcome(
        id=rollout.id,
        text=rollout.response,
        calls=rollout.calls,
        media=rollout.seen,
        frame=rollout.answer_frame,
        ending=rollout.ending,
        truncated=rollout.truncated,
        num_tokens=rollout.response_tokens,
        num_turns=rollout.turns,
        rank=rollout.rank,
    )


def _locate(path: Path) -> tuple[list[Path], Path]:
    files = sorted(path.glob("rollouts/*/*.parquet")) if path.is_dir() else [path]
    folders = [path, *path.resolve().parents]
    run_dir = next((folder for folder in folders if (folder / RECIPE_FILE).is_file()), None)
    if not files or not files[0].is_file():
        raise DataError(
            f"{path} holds no rollouts; give a run's folder or one of its rollouts/PHASE/*.parquet"
        )
    if run_dir is None:
        raise DataError(
            f"{path}: no {RECIPE_FILE} in this or any folder above; rollouts are judged by their recipe"
        )
    return files, run_dir


def _groups(rollouts: Iterable[Rollout]) -> Iterator[list[Rollout]]:
    """Rollouts of one sample that were judged together, by rank: group verifiers need all of them."""
    groups: dict[tuple[str, str], list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.group, rollout.sample].append(rollout)
    for group in groups.values():
        yield sorted(group, key=lambda rollout: rollout.rank)


def _count(result: Rejudged, rollout: Rollout, verdict: Verdict) -> None:
    before = {component.name: component for component in rollout.components}
    changed = not _same(rollout.reward, verdict.reward)
    for component in verdict.components:
        tally = result.tallies[rollout.source, component.name]
        old = before.get(component.name)
        tally.count += 1
        tally.statuses[component.status] += 1
        if component.value is not None:
            tally.now.append(component.value)
        if old is not None and old.value is not None:
            tally.before.append(old.value)
        if old is None or old.status != component.status or not _same(old.value, component.value):
            tally.changed += 1
            changed = True
    if changed:
        result.changes.append(Change(rollout, verdict))


def _same(a: float | None, b: float | None) -> bool:
    return (a is None) == (b is None) and (a is None or b is None or abs(a - b) <= TOLERANCE)
