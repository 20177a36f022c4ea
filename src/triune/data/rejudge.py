"""Saved answers scored in this process: debug a reward without a model, without a service, without a cluster."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triune.core.errors import DataError
from triune.core.sample import Sample
from triune.core.verdict import Component, Verdict
from triune.data.files import atomic
from triune.data.saved import Group, Reading, Saved
from triune.monitor.rollouts import Rollout
from triune.verify.judge import Judge
from triune.verify.tally import Tally, same
from triune.verify.trial import trial


@dataclass(frozen=True)
class Change:
    """A rollout whose verdict is not what it was."""

    rollout: Rollout
    verdict: Verdict


@dataclass
class Rejudged:
    """`tallies` by (source, component). `rollouts` were judged, `compared` of them with a saved verdict.

    `missing` counts rollouts whose sample the recipe's data no longer has, `skipped` bad rows by reason. `faults` says per
    source why nothing could be learnt from its checks, where a trial of one of its samples found that out.
    """

    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    rollouts: int = 0
    compared: int = 0
    changes: list[Change] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def flags(self, slow: float = 0.1) -> dict[tuple[str, str], list[str]]:
        """What is wrong with which component (see `Tally.flags`); those with nothing are left out."""
        found = {key: tally.flags(slow) for key, tally in self.tallies.items()}
        return {key: flags for key, flags in found.items() if flags}

    def save(self, path: Path, slow: float = 0.1) -> None:
        """Writes `dump` as JSON."""
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(self.dump(slow), indent=1) + "\n", encoding="utf-8")

    def dump(self, slow: float = 0.1) -> dict[str, Any]:
        """Plain data: everything that the table shows."""
        return {
            "rollouts": self.rollouts,
            "compared": self.compared,
            "changed": len(self.changes),
            "missing": dict(self.missing),
            "skipped": dict(self.skipped),
            "faults": self.faults,
            "components": [
                {
                    "source": source,
                    "component": name,
                    "n": tally.count,
                    "mean": tally.mean,
                    "std": tally.std,
                    "at_min": tally.at_min,
                    "at_max": tally.at_max,
                    "groups": tally.groups,
                    "flat_groups": tally.flat,
                    "empty": tally.empty,
                    "p50_ms": 1000 * tally.quantile(0.5),
                    "p99_ms": 1000 * tally.quantile(0.99),
                    "statuses": dict(tally.statuses),
                    "details": tally.details,
                    "changed": tally.changed,
                    "flags": tally.flags(slow),
                }
                for (source, name), tally in sorted(self.tallies.items())
            ],
        }


def rejudge(path: Path, reading: Reading | None = None, *, workers: int = 0) -> Rejudged:
    """Judges what was saved: the rollouts under a run's folder or in one of its files, or rows with responses.

    Of a run, checks, parameters and truths come from the recipe's data as it is now, so that a mended reward can be tried
    on what was already generated; what was given then is compared. `workers`: as of a Judge; 0 judges in this process,
    where a debugger can stop, without deadlines. Raises DataError when there is nothing to judge.
    """
    saved, result, tried = Saved(path, reading or Reading()), Rejudged(), set[tuple[str, ...]]()
    with Judge(workers=workers) as judge:
        for batch in saved.batches():
            for group, verdicts in judged(batch, judge):
                _count(result, group, verdicts)
                kind = (group.sample.source, *(f"{c.name}={c.verifier}" for c in group.sample.checks))
                if kind not in tried:
                    tried.add(kind)
                    _try(result, group.sample, judge)
    result.missing, result.skipped = saved.missing, saved.skipped
    if not result.rollouts and not result.missing:
        raise DataError(f"{path} holds no rollouts")
    return result


def judged(batch: Sequence[Group], judge: Judge) -> list[tuple[Group, list[Verdict]]]:
    """The groups of a batch with what is said of them now; they are judged together, at their progress."""
    if not batch:
        return []
    requests = [(group.sample, group.outcomes) for group in batch]
    return list(zip(batch, judge.judge_many(requests, batch[0].progress), strict=True))


def _count(result: Rejudged, group: Group, verdicts: Sequence[Verdict]) -> None:
    result.rollouts += len(verdicts)
    for at, check in enumerate(group.sample.checks):
        tally = result.tallies.setdefault((group.sample.source, check.name), Tally.of(check))
        tally.add([verdict.components[at] for verdict in verdicts])
    for rollout, verdict in zip(group.rollouts, verdicts, strict=False):
        before: dict[str, Component] = {component.name: component for component in rollout.components}
        changed = not same(rollout.reward, verdict.reward)
        for component in verdict.components:
            tally = result.tallies[group.sample.source, component.name]
            changed |= tally.compare(before.get(component.name), component)
        result.compared += 1
        if changed:
            result.changes.append(Change(rollout, verdict))


def _try(result: Rejudged, sample: Sample, judge: Judge) -> None:
    """What answers that say nothing earn, by the sample's own checks at the end of training."""
    tried = trial(sample, judge)
    if tried is None:
        return
    for part in tried.best.components:
        empty = [one for verdict in tried.empty for one in verdict.components if one.name == part.name]
        result.tallies[sample.source, part.name].earned(empty)
    if tried.fault is not None:
        result.faults.setdefault(sample.source, f"sample {sample.id!r}: {tried.fault}")
