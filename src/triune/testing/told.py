"""Runs that are told instead of trained: what each step's rollouts were like, logged through a real monitor.

    with Monitor(run_dir, sinks=()) as monitor:
        for step in range(1, 61):
            train(monitor, step, {"counting": Told(correct=0.5), "ocr": Told(tokens=20 + step)})

For rules and views that need a run in which something certain happens. Which rollout is right is drawn, seeded by the step.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from triune.core.sample import Check, Media, Message, Picture, Sample, Text
from triune.core.trajectory import Decisions, Payload, Trajectory
from triune.core.verdict import Component, Outcome, Verdict
from triune.monitor.metric import Metric, Scored, scalar
from triune.monitor.monitor import Monitor

GROUPS, GROUP_SIZE = 1, 4
"""Of each source in a step."""
CHECKS = (
    Check(verifier="text_exact", weight=0.9, name="answer"),
    Check(verifier="format_boxed", weight=0.1, name="format"),
)


@dataclass(frozen=True, slots=True)
class Told:
    """What the rollouts of a source are like: chances that one is correct, has the format, could not be judged, was cut off or
    left the loss; its length in tokens; entropy and log-prob gap in nats per token; prompts in the step."""

    correct: float = 0.5
    form: float = 0.8
    failed: float = 0.0
    clipped: float = 0.0
    dropped: float = 0.0
    tokens: int = 8
    entropy: float = 0.5
    gap: float = 1e-6
    groups: int = GROUPS
    level: float = 1.0
    """Value of a correct answer."""


def train(
    monitor: Monitor, step: int, sources: Mapping[str, Told], scalars: Sequence[Metric] = ()
) -> list[Scored]:
    """Logs a training step in which each source was as told."""
    scored, metrics = [], list(scalars)
    for source, told in sources.items():
        rng = np.random.default_rng([step, zlib.crc32(source.encode())])
        for group in range(told.groups):
            sample = made(source, step * told.groups + group)
            scored += [judged(sample, rng, told, rank) for rank in range(GROUP_SIZE)]
        jitter = 1 + 0.05 * float(rng.standard_normal())
        metrics += [
            scalar("entropy", told.entropy * jitter, source=source),
            scalar("sampling/sampling_logp_difference", told.gap * jitter, source=source),
        ]
    monitor.log_step(step, "train", scored, metrics)
    return scored


def answers(
    sources: Mapping[str, Told], step: int = 0, samples: int = 64, pictures: Sequence[Media] = ()
) -> list[Scored]:
    """One answer to each of the same held-out samples of every source; `pictures` are what each sample shows."""
    scored = []
    for source, told in sources.items():
        rng = np.random.default_rng([step, zlib.crc32(source.encode()), 1])
        scored += [judged(made(source, -1 - number, pictures), rng, told) for number in range(samples)]
    return scored


def made(source: str, number: int, pictures: Sequence[Media] = ()) -> Sample:
    """Sample `number` of a source; those below 0 are held out."""
    shown = [Picture(media=index) for index in range(len(pictures))]
    return Sample(
        id=f"{source}/{number}",
        source=source,
        task=source.split("/")[0],
        messages=(Message(role="user", content=(*shown, Text(text=f"What is {number}?"))),),
        media=tuple(pictures),
        truth="3",
        checks=CHECKS,
    )


def judged(sample: Sample, rng: np.random.Generator, told: Told, rank: int = 0) -> Scored:
    """One rollout of a sample, drawn as told."""
    correct, form, failed, clipped, dropped = rng.random(5) < (
        told.correct, told.form, told.failed, told.clipped, told.dropped
    )  # fmt: skip
    tokens = max(1, round(told.tokens * (1 + 0.1 * float(rng.standard_normal()))))
    id = f"{sample.id}#{rank}"
    value = None if failed else told.level * float(correct)
    components = (
        Component(
            name="answer", value=value, weight=0.9, correct=None if failed else bool(correct), main=True,
            status="timeout" if failed else "ok",
        ),
        Component(name="format", value=float(form), weight=0.1, correct=bool(form)),
    )  # fmt: skip
    reward = None if value is None else 0.9 * value + 0.1 * float(form)
    reason = "timeout" if failed else "told" if dropped else ""
    return Scored(
        sample=sample,
        trajectory=Trajectory(
            id=id,
            sample=sample.id,
            source=sample.source,
            task=sample.task,
            group=sample.id,
            rank=rank,
            decisions=Decisions.of(np.full(tokens, -told.entropy)),
            payload=Payload(family="told"),
        ),
        outcome=Outcome(
            id=id, text="3" if correct else "4", num_tokens=tokens, truncated=bool(clipped), rank=rank
        ),
        verdict=Verdict(id=id, reward=reward, components=components, correct=components[0].correct),
        in_loss=not reason,
        in_baseline=not reason,
        reason=reason,
    )
