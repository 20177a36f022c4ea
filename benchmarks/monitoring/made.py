"""Judged rollouts and metrics as a run would log them, from nothing but numbers."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image

from triune.core.sample import Check, Media, Message, Picture, Sample, Text
from triune.core.trajectory import Decisions, Payload, Trajectory
from triune.core.verdict import Component, Outcome, Verdict
from triune.monitor.metric import Metric, Scored

RANKS = 8
"""Rollouts in a group."""


def group(number: int, source: str, tokens: int = 64) -> list[Scored]:
    """A group of 8 rollouts of `tokens` tokens, about a picture of its own."""
    rng = np.random.default_rng(number)
    pixels = np.kron(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
    sample = Sample(
        id=f"{source}/{number}",
        source=source,
        task=source.split("/")[0],
        messages=(
            Message(role="user", content=(Picture(media=0), Text(text=f"How many dots are in {number}?"))),
        ),
        media=(Media.from_image(Image.fromarray(pixels)),),
        truth=number % 7,
        checks=(Check(verifier="count", weight=0.9), Check(verifier="format_boxed", weight=0.1)),
    )
    return [_rollout(sample, rank, float(rng.random() < 0.5), tokens) for rank in range(RANKS)]


def _rollout(sample: Sample, rank: int, value: float, tokens: int) -> Scored:
    id = f"{sample.id}#{rank}"
    parts = (
        Component(name="count", value=value, weight=0.9, correct=value == 1.0, main=True),
        Component(name="format_boxed", value=1.0, weight=0.1, correct=True),
    )
    ids = np.random.default_rng(rank).integers(0, 500, 32 + tokens, dtype=np.int32)
    return Scored(
        sample=sample,
        trajectory=Trajectory(
            id=id,
            sample=sample.id,
            source=sample.source,
            task=sample.task,
            group=sample.id,
            rank=rank,
            decisions=Decisions.of(np.linspace(-2, -0.1, tokens)),
            payload=Payload(
                family="language",
                arrays={"ids": ids, "origin": np.repeat(np.int8([0, 1]), [32, tokens])},
            ),
        ),
        outcome=Outcome(
            id=id, text="there are some \\boxed{3} " * (tokens // 8), num_tokens=tokens, rank=rank
        ),
        verdict=Verdict(
            id=id, reward=0.9 * value + 0.1, components=parts, correct=value == 1.0, normalized=True
        ),
    )


def metrics(sources: int, names: int, progress: float, seed: int) -> list[Metric]:
    """Of each source so many metrics of 8 values each, which rise with progress from 0 to 1, with noise."""
    rng = random.Random(seed)
    chosen = ["reward", "accuracy", "correct", *(f"measure/{n}" for n in range(names - 3))]
    found = []
    for source in range(sources):
        height = 0.2 + 0.6 * (source + 1) / sources * (1 - math.exp(-3 * progress))
        tags = {"source": f"task{source % 8}/source{source:02d}", "task": f"task{source % 8}"}
        found += [
            Metric.of(name, [height + rng.gauss(0, 0.1) for _ in range(RANKS)], **tags) for name in chosen
        ]
    return found
