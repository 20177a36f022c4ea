"""One run by several processes: what each of them does, so that the step is the one that a single process takes.

All hold the same recipe, weights, rollouts and flat vectors. Prompts are dealt out for generation and micro-batches for
evaluation and gradients; the process that leads judges, logs and writes. Weights of decisions carry their global
denominators, so gradients are added up, not averaged.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from triune.algo.types import Batch
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.trajectory import Trajectory
from triune.core.verdict import Outcome, Verdict
from triune.data.mixture import Mixture
from triune.monitor.keep import Keep
from triune.monitor.metric import Metric
from triune.monitor.monitor import Monitor
from triune.monitor.sinks import Options
from triune.policy.family import Family
from triune.rollout.generator import Demand, Episode, Generator
from triune.runtime.world import world
from triune.verify.judge import Judge


class SharedGenerator:
    """Every process answers its share of the prompts; all get all episodes, in the order of the prompts.

    A rollout's random numbers depend on (seed, version, sample, rank) alone, so it does not matter who draws it. Pictures
    that an environment showed are handed on, and every process prepares every picture of a training step, because any of
    them may be given the micro-batch that holds it.
    """

    def __init__(self, inner: Generator, family: Family) -> None:
        self.inner, self.family = inner, family

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        shown = getattr(self.family, "shown", {})
        before = set(shown)
        mine = [number for number in range(len(samples)) if world().mine(number)]

        def drawn() -> tuple[list[list[tuple[Sample | None, Trajectory, Outcome]]], list[Any]]:
            chosen = [samples[number] for number in mine]
            rows = self.inner.generate(chosen, demand) if chosen else []
            # A sample may hold megabytes of pictures, and every process has it already.
            sent = [
                [(None if e.sample is sample else e.sample, e.trajectory, e.outcome) for e in row]
                for sample, row in zip(chosen, rows, strict=True)
            ]
            return sent, [value for key, value in shown.items() if key not in before]

        found = world().all(drawn)
        if demand.progress.phase == "train" and (meet := getattr(self.family, "meet", None)) is not None:
            world().all(lambda: meet(samples, [one for _, shown in found for one in shown]))
        shown |= {(owner, medium.sha256): (owner, medium) for _, new in found for owner, medium in new}
        rows = [iter(part) for part, _ in found]
        return [
            [
                Episode(own or sample, trajectory, outcome)
                for own, trajectory, outcome in next(rows[n % len(rows)])
            ]
            for n, sample in enumerate(samples)
        ]


class SharedJudge:
    """The process that leads judges, so that the failure guard counts once; all get its verdicts, or its error."""

    def __init__(self, inner: Judge) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def judge_many(
        self, requests: Sequence[tuple[Sample, Sequence[Outcome]]], progress: Progress
    ) -> list[list[Verdict]]:
        return world().first(lambda: self.inner.judge_many(requests, progress))


class Quiet(Monitor):
    """The monitor of a process that does not lead: it keeps nothing, in a folder that is gone with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="triune-")
        super().__init__(self._folder.name, rollouts_every=0)

    def log_step(self, *args: Any, **kwargs: Any) -> list[Metric]:
        return []

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


def generator(inner: Generator, family: Family) -> Generator:
    """The run's generator: shared where there are several processes."""
    return SharedGenerator(inner, family) if world().size > 1 else inner


def judge(inner: Judge) -> Judge:
    """The run's judge, likewise."""
    shared: Any = SharedJudge(inner) if world().size > 1 else inner
    return shared  # type: ignore[no-any-return]


def monitor(run_dir: Path, recipe: Recipe, mixture: Mixture) -> Monitor:
    """The run's monitor; of a process that does not lead, one that keeps nothing. Raises RecipeError where `monitor.keep`
    names what the data does not have."""
    spec = recipe.monitor
    Keep(spec.rollouts_every, spec.keep).refuse_unknown(mixture.firsts())
    if not world().leads:
        return Quiet()
    sinks = cast("Sequence[Options]", spec.sinks)
    return Monitor(
        run_dir,
        sinks,
        spec.words,
        spec.rollouts_every,
        recipe.train.total_steps,
        recipe=recipe.dump(),
        keep=spec.keep,
        buffer_mb=spec.buffer_mb,
        alarms=spec.alarms,
        stop_on=spec.stop_on,
    )


def packed(family: Family, parts: Sequence[Sequence[Trajectory]]) -> list[Batch]:
    """The micro-batches of a step; those of other processes without payload, but with the family's own vectors."""
    if world().size == 1:
        return [family.pack(part) for part in parts]
    own: dict[int, Batch] = {}

    def laid(number: int) -> Any:
        own[number] = batch = family.pack(parts[number])
        choice = getattr(batch.payload, "choice", None)
        return batch.turn, batch.action, batch.value_trajectory, batch.value_turn, choice

    found = []
    for number, (turn, action, row, before, choice) in enumerate(world().each(range(len(parts)), laid)):
        batch = own.get(number)
        if batch is None:
            batch = Batch.of(parts[number], Elsewhere(choice), value_trajectory=row, value_turn=before)
            batch = replace(batch, turn=turn, action=action)
        found.append(batch)
    return found


class Elsewhere:
    """The payload of a micro-batch that another process computes: how it was laid out there."""

    def __init__(self, choice: Any) -> None:
        if choice is not None:
            self.choice = choice


def same_weights(family: Family) -> None:
    """Raises TriuneError when processes do not hold the same weights, bit for bit."""
    if world().size == 1:
        return
    digest = hashlib.sha256()
    for module in family.modules().values():
        for parameter in module.parameters():
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    world().same("the policy's weights", digest.hexdigest())
