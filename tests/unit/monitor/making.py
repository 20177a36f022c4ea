"""Judged rollouts for the tests, with real pictures and the fields that matter here."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from triune.core.sample import Check, Media, Message, Picture, Sample, Text
from triune.core.trajectory import Decisions, Payload, Trajectory
from triune.core.verdict import Component, Outcome, Verdict
from triune.monitor.metric import Metric, Scored
from triune.monitor.source import rollout_metrics

COUNT = (Check(verifier="count", weight=0.9), Check(verifier="format_boxed", weight=0.1))


def picture(index: int = 0, side: int = 64) -> Image.Image:
    rng = np.random.default_rng(index)
    image = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(0, 90, 3)))
    left, top = (int(v) for v in rng.integers(2, side // 2, 2))
    ImageDraw.Draw(image).rectangle((left, top, left + side // 3, top + side // 3), fill="orange")
    return image


def make_sample(index: int = 0, source: str = "counting/shapes", **fields: Any) -> Sample:
    content = (Picture(media=0), Text(text=fields.pop("prompt", f"How many shapes are in picture {index}?")))
    defaults: dict[str, Any] = {
        "id": f"{source}/{index}",
        "source": source,
        "task": source.split("/")[0],
        "messages": (Message(role="user", content=content),),
        "media": (Media.from_image(picture(index)),),
        "truth": 3,
        "checks": COUNT,
        "normalize": True,
    }
    return Sample(**(defaults | fields))


def make_scored(
    value: float | None = 1.0,
    sample: Sample | None = None,
    *,
    text: str = "\\boxed{3}",
    rank: int = 0,
    tokens: int = 4,
    correct: bool | None = None,
    components: tuple[Component, ...] | None = None,
    reason: str = "",
    outcome: dict[str, Any] | None = None,
    **component: Any,
) -> Scored:
    """One rollout whose main check has this value (None: it could not be judged) and is correct from 1.0 up."""
    sample = sample or make_sample()
    id = f"{sample.id}#{rank}"
    if components is None:
        status = component.pop("status", "ok" if value is not None else "timeout")
        right = value >= 1.0 if value is not None and correct is None else correct
        check = sample.checks[0]
        components = (
            Component(
                name=check.name, value=value, weight=check.weight, status=status, correct=right, **component
            ),
            Component(name=sample.checks[-1].name, value=1.0, weight=sample.checks[-1].weight, correct=True),
        )
    known = [c for c in components if c.value is not None]
    total = sum(c.weight for c in components) if sample.normalize else 1.0
    reward = (
        sum(c.weight * (c.value or 0.0) for c in known) / total if len(known) == len(components) else None
    )
    verdict = Verdict(
        id=id, reward=reward, components=components, correct=components[0].correct, elapsed=0.01
    )
    return Scored(
        sample=sample,
        trajectory=Trajectory(
            id=id,
            sample=sample.id,
            source=sample.source,
            task=sample.task,
            group=sample.id,
            rank=rank,
            seed=2**64 - 1 - rank,
            decisions=Decisions.of(np.linspace(-1.0, -0.1, tokens), version=7),
            payload=Payload(
                family="language",
                arrays={
                    "ids": np.arange(10 + tokens, dtype=np.int32),
                    "origin": np.array([0] * 10 + [1] * tokens, dtype=np.int8),
                },
            ),
        ),
        outcome=Outcome(id=id, text=text, num_tokens=tokens, rank=rank, **(outcome or {})),
        verdict=verdict,
        in_loss=not reason,
        in_baseline=not reason,
        reason=reason,
    )


def group(values: list[float | None], sample: Sample | None = None) -> list[Scored]:
    """One group of rollouts of one sample."""
    return [make_scored(value, sample, rank=rank) for rank, value in enumerate(values)]


def metrics_of(scored: list[Scored], **kwargs: Any) -> dict[str, Metric]:
    """Rollout metrics by `name` or, where labels beyond source and task tell them apart, `name{value}`."""
    found = {}
    for metric in rollout_metrics(scored, **kwargs):
        rest = [value for key, value in metric.labels if key not in ("source", "task")]
        found[metric.name + ("{" + ",".join(rest) + "}" if rest else "")] = metric
    return found
