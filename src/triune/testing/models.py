"""Random tiny models of every architecture as families and folders, and samples, demands and rollouts for them: no
network, no torchvision, milliseconds each. Weights are random, so a wrong mask, position or feature order shows at full
size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from triune.core.sample import Check, EnvSpec, Media, Message, Picture, Sample, Text
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule, Trajectory
from triune.policy.language import LanguageFamily
from triune.policy.options import LanguageOptions
from triune.policy.vlm import quiet
from triune.rollout.episode import Conversations
from triune.rollout.generator import Demand, Episode
from triune.rollout.native import NativeEngine
from triune.testing.architectures import TINY, Built, drawn

__all__ = [
    "TINY",
    "Built",
    "demand",
    "drawn",
    "picture",
    "ragged",
    "sample",
    "talker",
    "tiny",
    "trajectories",
    "write",
]


def tiny(kind: str, seed: int = 0, **options: Any) -> LanguageFamily:
    """A language family over a random model of one architecture; `options` are LanguageOptions."""
    chosen = LanguageOptions.model_validate({"attention": "eager", **options})
    model, processor = drawn(kind, seed)
    model = model.to(getattr(torch, chosen.dtype))
    model.set_attn_implementation(chosen.attention)
    return LanguageFamily(model, processor, chosen)


def write(kind: str, folder: Path, seed: int = 0) -> Path:
    """A random model of one architecture as a Hugging Face folder: safetensors, processor, chat template, generation
    config. What `policy.path` takes. Returns the folder."""
    model, processor = drawn(kind, seed)
    with quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def picture(width: int = 24, height: int = 24, seed: int = 0) -> Media:
    """A picture of random blocks: unlike any other seed's at any resolution."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Media.from_image(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


def sample(
    name: str, *pictures: Media, text: str = "How many circle?", env: str | None = None, **fields: Any
) -> Sample:
    """A sample that shows its pictures with a few words between them, and then asks."""
    content: list[Text | Picture] = []
    for number in range(len(pictures)):
        content += [*([Text(text="Which")] if number % 2 else []), Picture(media=number)]
    return Sample(
        id=name, source="tiny", task="tiny", media=pictures, checks=(Check(verifier="answer"),),
        messages=(Message(role="user", content=(*content, Text(text=text))),),
        env=EnvSpec(name=env) if env else None, **fields,
    )  # fmt: skip


def talker(
    family: LanguageFamily, *, max_tokens: int = 12, max_rows: int = 512, **limits: int
) -> Conversations:
    """A generator over the family's native engine."""
    return Conversations(family, NativeEngine(family, max_rows), max_tokens=max_tokens, **limits)


def demand(
    rollouts: int = 3, seed: int = 0, version: int = 0, phase: Literal["train", "eval"] = "train", **rule: Any
) -> Demand:
    """A step's demand; `rule` are fields of the SamplingRule."""
    progress = Progress(step=1, total_steps=1, phase=phase)
    return Demand(rollouts, SamplingRule(**rule), seed, version, progress)


def ragged() -> list[Sample]:
    """Four samples with 0, 1, 2 and 3 pictures of different sizes, and questions of different lengths."""
    shown = [
        picture(w, h, i)
        for i, (w, h) in enumerate([(24, 24), (40, 16), (17, 50), (30, 30), (24, 24), (60, 20)])
    ]
    return [
        sample("none", text="Read the number"),
        sample("one", shown[0]),
        sample("two", *shown[1:3], text="Which is the tallest?"),
        sample("three", *shown[3:]),
    ]


def trajectories(rows: Sequence[Sequence[Episode]]) -> list[Trajectory]:
    return [episode.trajectory for row in rows for episode in row]
