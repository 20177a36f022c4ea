"""Where a run stands, beside its weights: what a checkpoint records of data, judge and monitor, and what a resume
compares with it. No torch.

Data order and seeds are pure functions of (recipe, step), so nothing here is needed to go on; it is what tells that
what goes on is the same run.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from triune.core.base import Frozen
from triune.core.errors import RecipeError
from triune.core.loading import flat
from triune.core.recipe import Recipe
from triune.data.mixture import Mixture
from triune.monitor.monitor import Monitor
from triune.monitor.store import Store
from triune.verify.guard import FailureGuard

_FIXED = re.compile(
    r"seed|data\.sources.*\.(name|weight)|policy\..*|train\.prompts_per_step|(algo|rollout)\.kind"
)
_FREE = re.compile(r"policy\.(path|layout|attention|token_budget|trust_remote_code)")
"""What a resume may not change: data order and the policy's shape. Where the base lies and how rows are laid out may."""
_VERSIONED = ("triune", "torch", "transformers", "peft")


class SourceState(Frozen):
    """A source as it was: `samples` is None for one that draws without end; `sha256` as in `Mixture.fingerprints`."""

    name: str
    samples: int | None
    sha256: str


class PhaseState(Frozen):
    """What the run's store held of a phase: the last step, how many, and of how many the rollouts."""

    step: int
    steps: int
    rollouts: int


class Position(Frozen):
    """`batches` counts batches of prompts: one a step, or more where a step drew again. `next` are the ids of the samples
    that the step after this one draws. `judged` is the failure guard's window."""

    step: int
    batches: int
    draws: int
    next: tuple[str, ...]
    sources: tuple[SourceState, ...]
    skipped: dict[str, int]
    judged: dict[str, Any]
    monitor: dict[str, PhaseState]
    versions: dict[str, str]

    @classmethod
    def of(
        cls,
        step: int,
        batches: int,
        mixture: Mixture,
        guard: FailureGuard | None,
        store: Store,
        skipped: Mapping[str, int],
    ) -> Position:
        """After `step` steps."""
        return cls(
            step=step,
            batches=batches,
            draws=batches * mixture.prompts_per_step,
            next=tuple(sample.id for sample in mixture.batch(batches + 1)),
            sources=_sources(mixture),
            skipped=dict(skipped),
            judged=guard.state() if guard else {},
            monitor=_phases(store, step),
            versions=_versions(),
        )

    def verify(self, before: Recipe, now: Recipe, mixture: Mixture) -> list[str]:
        """What changed since the checkpoint and may, in words. Raises RecipeError for what may not: the data, its order,
        or the policy's shape."""
        changed = differences(before, now)
        bad = {k: v for k, v in changed.items() if _FIXED.fullmatch(k) and not _FREE.fullmatch(k)}
        lines = list(_lines(bad)) + list(self._data(mixture))
        if not lines and self.next != (ids := tuple(s.id for s in mixture.batch(self.batches + 1))):
            first = next(i for i, (a, b) in enumerate(zip(self.next, ids, strict=True)) if a != b)
            lines = [
                f"prompt {first + 1} of step {self.step + 1}: was {self.next[first]!r}, now {ids[first]!r}"
            ]
        if lines:
            raise RecipeError(
                f"this is not the run that was checkpointed at step {self.step}; restore what changed, or start another "
                "run from the checkpoint's weights (policy.path):\n  " + "\n  ".join(lines)
            )
        mine, its = self.versions, _versions()
        moved = {
            f"version of {k}": (mine.get(k), its.get(k)) for k in _VERSIONED if mine.get(k) != its.get(k)
        }
        return [f"changed for the rest of the run: {line}" for line in _lines(changed)] + [
            f"no longer bit for bit: {line}" for line in _lines(moved)
        ]

    def _data(self, mixture: Mixture) -> Iterator[str]:
        now = {source.name: source for source in _sources(mixture)}
        paths = {s.name: f" ({path})" for s in mixture.sources if (path := getattr(s, "path", None))}
        for was in self.sources:
            found, where = now.pop(was.name, None), f"source {was.name!r}{paths.get(was.name, '')}"
            if found is None:
                yield f"{where}: is gone"
            elif found.samples != was.samples:
                yield f"{where}: had {was.samples} samples, now {found.samples}"
            elif found.sha256 != was.sha256:
                yield f"{where}: as many samples as before, but not the same ones, or in another order"
        yield from (f"source {name!r}: is new" for name in now)

    def put_back(self, guard: FailureGuard | None, monitor: Monitor, said: list[str]) -> None:
        """Gives the guard its window again, and says what changed and what the monitor, rewound, has lost."""
        if guard:
            guard.restore(self.judged)
        held = _phases(monitor.store, self.step)
        for phase, was in self.monitor.items():
            found = held.get(phase, PhaseState(step=0, steps=0, rollouts=0))
            if found != was:
                said.append(
                    f"the run's files hold {found.steps} steps of phase {phase} (rollouts of {found.rollouts}) and held "
                    f"{was.steps} ({was.rollouts}): curves will have gaps"
                )
        for line in said:
            monitor.say(f"resumed: {line}", kind="resume", step=self.step)


def differences(before: Recipe, now: Recipe) -> dict[str, tuple[Any, Any]]:
    """The keys that differ, dotted, with both values; None stands for a key that is not there."""
    old, new = (dict(flat(recipe.dump())) for recipe in (before, now))
    return {k: (old.get(k), new.get(k)) for k in {**old, **new} if old.get(k) != new.get(k)}


def worded(before: Recipe, now: Recipe) -> list[str]:
    """The keys that differ, a line each."""
    return list(_lines(differences(before, now)))


def _lines(changed: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    for key, (was, is_now) in changed.items():
        yield f"{key}: was {_short(was)}, now {_short(is_now)}"


def _short(value: Any) -> str:
    text = repr(value)  # a plug-in's code is a value, too
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _sources(mixture: Mixture) -> tuple[SourceState, ...]:
    prints = mixture.fingerprints
    return tuple(
        SourceState(name=source.name, samples=source.num_samples, sha256=prints[source.name])
        for source in mixture.sources
    )


def _phases(store: Store, step: int) -> dict[str, PhaseState]:
    found = {}
    for phase in store.phases():
        steps = [s for s in store.steps(phase) if s <= step]
        rollouts = [s for s in store.rollout_steps(phase) if s <= step]
        if steps:
            found[phase] = PhaseState(step=steps[-1], steps=len(steps), rollouts=len(rollouts))
    return found


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
