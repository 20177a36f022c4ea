"""Saved rollouts judged again: exactly as they were, or by other verifiers, parameters and weights, to see what would change.

Needs the run's folder alone: samples, pictures and what environments gave are kept with it (`data/saved.py`). What cannot be
judged as it was is left out and counted with the reason, never scored.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from triune.core.errors import DataError, RecipeError
from triune.core.sample import Sample
from triune.core.verdict import Component, Verdict
from triune.data.files import atomic
from triune.data.rejudge import judged
from triune.data.saved import Choice, Group, Saved
from triune.monitor.replay.checks import Rechecked
from triune.monitor.rollouts import Rollout
from triune.monitor.source import NO_SPREAD
from triune.monitor.store import Store
from triune.verify.judge import Judge
from triune.verify.routing import route
from triune.verify.verifier import BatchVerifier

PASSING = ("timeout", "unavailable")
"""Statuses that say something of the moment, not of the rollout."""


@dataclass
class Values:
    """What was said of rollouts, then and now; None where nothing could be said."""

    before: list[float | None] = field(default_factory=list)
    after: list[float | None] = field(default_factory=list)
    correct_before: list[float | None] = field(default_factory=list)
    correct_after: list[float | None] = field(default_factory=list)
    changed: int = 0

    def add(
        self, before: Verdict | Component | None, after: Verdict | Component | None, changed: bool
    ) -> None:
        self.before.append(_value(before))
        self.after.append(_value(after))
        self.correct_before.append(before.correct if before else None)
        self.correct_after.append(after.correct if after else None)
        self.changed += changed

    def dump(self) -> dict[str, Any]:
        return {
            "n": len(self.before),
            "changed": self.changed,
            "before": _mean(self.before),
            "after": _mean(self.after),
            "correct_before": _mean(self.correct_before),
            "correct_after": _mean(self.correct_after),
        }


@dataclass
class Groups:
    """Groups of two or more judged rollouts. `flipped` rollouts are above their group's mean reward then and below it now, or
    the other way round; `reordered` groups have a pair of rollouts in another order; `flat` ones have no spread."""

    count: int = 0
    rollouts: int = 0
    flipped: int = 0
    reordered: int = 0
    flat_before: int = 0
    flat_after: int = 0

    def add(self, before: Sequence[float], after: Sequence[float]) -> None:
        self.count += 1
        self.rollouts += len(before)
        self.flipped += sum(a * b < 0 for a, b in zip(_signs(before), _signs(after), strict=True))
        pairs = combinations(range(len(before)), 2)
        self.reordered += any(_sign(before[i] - before[j]) != _sign(after[i] - after[j]) for i, j in pairs)
        self.flat_before += max(before) - min(before) <= NO_SPREAD
        self.flat_after += max(after) - min(after) <= NO_SPREAD


@dataclass(frozen=True)
class Change:
    """A rollout of which something else is said now."""

    rollout: Rollout
    sample: Sample
    verdict: Verdict

    def dump(self) -> dict[str, Any]:
        rollout = self.rollout
        return {
            "phase": rollout.phase,
            "step": rollout.step,
            "rollout": rollout.id,
            "sample": rollout.sample,
            "source": rollout.source,
            "prompt": rollout.prompt,
            "response": rollout.response,
            "truth": rollout.truth,
            "reward": {"before": rollout.reward, "after": self.verdict.reward},
            "components": {
                name: {"before": _said(before), "after": _said(after)}
                for name, before, after in paired(rollout.components, self.verdict.components)
            },
        }


@dataclass
class Replayed:
    """`rewards` and `groups` by source, `components` by (source, component). `left_out` counts rollouts by (source, reason)."""

    overridden: bool
    rewards: dict[str, Values] = field(default_factory=lambda: defaultdict(Values))
    components: dict[tuple[str, str], Values] = field(default_factory=lambda: defaultdict(Values))
    groups: dict[str, Groups] = field(default_factory=lambda: defaultdict(Groups))
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    damaged: dict[str, str] = field(default_factory=dict)
    examples: list[Change] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rollouts(self) -> int:
        """How many were judged again."""
        return sum(len(values.before) for values in self.rewards.values())

    @property
    def changed(self) -> int:
        """Of how many something else is said now."""
        return sum(values.changed for values in self.rewards.values())

    def dump(self) -> dict[str, Any]:
        """Plain data: everything that is shown."""
        return {
            "overridden": self.overridden,
            "rollouts": self.rollouts,
            "changed": self.changed,
            "seconds": self.seconds,
            "sources": {
                source: {**values.dump(), "groups": vars(self.groups[source])}
                for source, values in sorted(self.rewards.items())
            },
            "components": [
                {"source": source, "component": name, **values.dump()}
                for (source, name), values in sorted(self.components.items())
            ],
            "left_out": [
                {"source": source, "reason": reason, "rollouts": count}
                for (source, reason), count in sorted(self.left_out.items())
            ],
            "damaged": self.damaged,
            "examples": [change.dump() for change in self.examples],
        }

    def save(self, path: Path) -> None:
        """Writes `dump` as JSON."""
        with atomic(path) as temporary:
            temporary.write_text(
                json.dumps(self.dump(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )


def replay(
    path: Path,
    checks: Rechecked | None = None,
    choice: Choice | None = None,
    *,
    examples: int = 3,
    workers: int = 0,
) -> Replayed:
    """Judges a run's rollouts (or those of one of its files) again, by `checks` where these concern them.

    `examples`: how many rollouts are kept of which the reward changes most. `workers`: as of a Judge. Raises DataError
    where there are no rollouts, RecipeError for checks that no sample can have, or that concern none.
    """
    checks = checks or Rechecked()
    saved = Saved(path, recorded=True, choice=choice or Choice())
    result, started = Replayed(bool(checks)), time.monotonic()
    with ExitStack() as opened:
        whole = _Whole(path, opened)
        judge = opened.enter_context(Judge(workers=workers))
        for batch in saved.batches():
            able = list(_able(batch, checks, whole, result))
            asked = [Group(sample, group.outcomes, group.progress, group.rollouts) for group, sample in able]
            for group, verdicts in judged(asked, judge):
                _count(result, group, verdicts, examples)
    result.seconds = time.monotonic() - started
    result.damaged = saved.damaged
    for source, count in saved.missing.items():
        result.left_out[source, "its sample is neither in the run nor in the recipe's data"] += count
    if not result.rollouts and not result.left_out and not result.damaged:
        raise DataError(f"{path}: no rollouts of these phases, steps and sources")
    if unused := checks.unused():
        raise RecipeError(f"no rollout that was judged has a check for {', '.join(unused)}")
    return result


def paired(
    before: Sequence[Component], after: Sequence[Component]
) -> Iterator[tuple[str, Component | None, Component | None]]:
    """The components of two verdicts by name."""
    old, new = ({part.name: part for part in parts} for parts in (before, after))
    for name in dict.fromkeys((*old, *new)):
        yield name, old.get(name), new.get(name)


# -- what can be judged as it was --------------------------------------------------------------------------------------


class _Whole:
    """Which steps the run has not kept whole, as its store counts them."""

    def __init__(self, path: Path, opened: ExitStack) -> None:
        folders = [path, *path.resolve().parents]
        folder = next((one for one in folders if (one / "metrics.sqlite").is_file()), None)
        self._store = opened.enter_context(Store(folder, readonly=True)) if folder else None
        self._known: dict[tuple[str, str], set[tuple[str, int]]] = {}

    def partly(self, phase: str, source: str, step: int) -> bool:
        """Rollouts of this source were left out when the step was saved, or it was drawn and judged in several batches."""
        batches = [("dynamic_sampling/batches", 1), ("difficulty/batches", 1)]
        return self._counted("rollouts/unkept", phase, source, step) or any(
            self._counted(name, phase, "", step, above) for name, above in batches
        )

    def injected(self, phase: str, source: str, step: int) -> bool:
        """Successes of earlier steps were put into groups of this source."""
        return self._counted("replay/injected", phase, source, step)

    def _counted(self, name: str, phase: str, source: str, step: int, above: int = 0) -> bool:
        key = name, phase
        if key not in self._known:
            series = self._store.series(name, phase=phase, by=("source",)) if self._store else {}
            self._known[key] = {
                (of, point.step)
                for (of,), points in series.items()
                for point in points
                if point.count and point.count * point.mean > above
            }
        return (source, step) in self._known[key]


def _able(
    batch: Sequence[Group], checks: Rechecked, whole: _Whole, result: Replayed
) -> Iterator[tuple[Group, Sample]]:
    """The groups of a batch that can be judged as they were; the others are counted."""
    samples = [checks.apply(group.sample) for group in batch]
    reasons = [
        _obstacle(group, sample, whole, overridden=sample is not group.sample)
        for group, sample in zip(batch, samples, strict=True)
    ]
    broken = {group.sample.source for group, reason in zip(batch, reasons, strict=True) if reason}
    for group, sample, reason in zip(batch, samples, reasons, strict=True):
        if not reason and group.sample.source in broken and _batched(group, sample):
            reason = "its verifier compares a whole step, of which other rollouts cannot be judged"
        if reason:
            result.left_out[group.sample.source, reason] += len(group.rollouts)
        else:
            yield group, sample


def _obstacle(group: Group, sample: Sample, whole: _Whole, overridden: bool) -> str:
    """Why a group cannot be judged as it was, '' if it can."""
    first = group.rollouts[0]
    at = first.phase, first.source, first.step
    if whole.injected(*at) and any(0 <= one.version_max < first.step - 1 for one in group.rollouts):
        return "a success of an earlier step was put into its group"
    try:
        terms = route(sample, group.progress)
    except DataError as error:
        if overridden:
            raise RecipeError(str(error)) from None
        return f"its checks cannot be judged here: {error}"
    if any(isinstance(term.verifier, BatchVerifier) for term in terms) and whole.partly(*at):
        return "its verifier compares a whole step, of which not every rollout was kept"
    if any(term.verifier.wants_media for term in terms):
        for medium in sample.media:
            try:
                medium.read()
            except DataError:
                return "a picture that its verifier looks at is gone"
    return ""


def _batched(group: Group, sample: Sample) -> bool:
    return any(isinstance(term.verifier, BatchVerifier) for term in route(sample, group.progress))


# -- what changes ------------------------------------------------------------------------------------------------------


def _count(result: Replayed, group: Group, verdicts: Sequence[Verdict], examples: int) -> None:
    source, known = group.sample.source, []
    for rollout, verdict in zip(group.rollouts, verdicts, strict=True):
        if reason := _passing(rollout, verdict):
            result.left_out[source, reason] += 1
            continue
        known.append((rollout, verdict))
        old = Verdict(
            id=rollout.id, reward=rollout.reward, components=rollout.components, correct=rollout.correct
        )
        changed = old.reward != verdict.reward or old.correct != verdict.correct
        for name, before, after in paired(old.components, verdict.components):
            other = _facts(before) != _facts(after)
            result.components[source, name].add(before, after, other)
            changed |= other
        result.rewards[source].add(old, verdict, changed)
        if changed and examples:
            result.examples.append(Change(rollout, group.sample, verdict))
    result.examples = sorted(result.examples, key=_by_size)[:examples]
    rewards = [
        (rollout.reward, verdict.reward)
        for rollout, verdict in known
        if rollout.reward is not None and verdict.reward is not None and rollout.component == "policy"
    ]
    if len(rewards) > 1:
        result.groups[source].add([a for a, _ in rewards], [b for _, b in rewards])


def _passing(rollout: Rollout, verdict: Verdict) -> str:
    """Why a rollout's two verdicts cannot be compared: one of them, but not the other, met a fault of the moment."""
    for _, before, after in paired(rollout.components, verdict.components):
        then, now = (part.status if part else "" for part in (before, after))
        if now in PASSING and after is not None:
            return f"{after.verifier}: {now} now"
        if then in PASSING and after is not None:
            return f"{after.verifier}: {then} when it was recorded"
    return ""


def _facts(part: Component | None) -> Component | None:
    """A component without what may differ between two honest judgements: its time, and its words."""
    return part.model_copy(update={"elapsed": 0.0, "detail": ""}) if part else None


def _by_size(change: Change) -> tuple[float, str, int, str]:
    """The largest change of reward first; one to or from no reward is the largest of all."""
    before, after = change.rollout.reward, change.verdict.reward
    moved = math.inf if (before is None) != (after is None) else abs((after or 0.0) - (before or 0.0))
    return -moved, change.rollout.phase, change.rollout.step, change.rollout.id


def _said(part: Component | None) -> dict[str, Any] | None:
    if part is None:
        return None
    return {
        "value": part.value, "weight": part.weight, "status": part.status, "correct": part.correct, "gated": part.gated,
        "verifier": part.verifier, "detail": part.detail,
    }  # fmt: skip


def _value(said: Verdict | Component | None) -> float | None:
    return None if said is None else said.reward if isinstance(said, Verdict) else said.value


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _sign(difference: float) -> int:
    return 0 if abs(difference) <= NO_SPREAD else 1 if difference > 0 else -1


def _signs(rewards: Sequence[float]) -> list[int]:
    mean = math.fsum(rewards) / len(rewards)
    return [_sign(reward - mean) for reward in rewards]
