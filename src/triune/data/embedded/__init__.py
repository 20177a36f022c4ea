"""The eight visual tasks, drawn on demand: sample `index` of a source is a pure function of (source, seed, split, index).

Sixteen and more sources over real handwriting, real photographs, real fonts and matplotlib charts. One scene answers
several questions, so that teaching can ask them all about one picture while RL and evaluation ask one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image

from triune.core.sample import Media, Message, Picture, Sample, Text
from triune.data.embedded import perception, reasoning
from triune.data.embedded.assets import Split, assets
from triune.data.embedded.canvas import Ask, Scene

KINDS: Mapping[str, Callable[[Scene], None]] = MappingProxyType(
    {
        "digits": perception.digits,
        "shapes": perception.shapes,
        "handwriting": perception.handwriting,
        "word": perception.word,
        "expression": reasoning.expression,
        "sequence": reasoning.sequence,
        "odd_one_out": reasoning.odd_one_out,
        "lever": reasoning.lever,
        "thermometer": reasoning.thermometer,
        "bars": reasoning.bars,
        "pie": reasoning.pie,
    }
)
"""Scene kinds: each draws a picture and lists the questions that can be asked about it."""


def draw_scene(kind: str, seed: int, split: Split, index: int) -> Scene:
    """Scene number `index` of a kind; the split's name is part of the seed, so train and held-out seeds are disjoint."""
    rng = np.random.default_rng([zlib.crc32(f"{kind}/{split}".encode()), seed, index])
    scene = Scene(rng, assets(split))
    KINDS[kind](scene)
    return scene


def to_sample(scene: Scene, ask: Ask, id: str) -> Sample:
    """One question about a scene as a sample; `expert` is the careful annotator's answer."""
    message = Message(role="user", content=(Picture(media=0), Text(text=ask.question)))
    return Sample(
        id=id,
        source=ask.source,
        task=ask.source.split("/")[0],
        messages=(message,),
        media=(Media.from_image(Image.fromarray(scene.pixels)),),
        truth=ask.truth,
        checks=ask.checks,
        normalize=True,
        expert=ask.answer,
        meta={"form": ask.form},
    )


@dataclass(frozen=True, slots=True)
class Drawn:
    """One embedded source: a question, and the scene kind that can answer it."""

    name: str
    kind: str

    @property
    def task(self) -> str:
        return self.name.split("/")[0]

    def draw(self, index: int, seed: int, split: Split) -> Sample:
        """Sample `index`: the first scene in a fixed search order that allows this source's question."""
        for attempt in range(1000):
            # Scenes that do not allow the question are stepped over in a sub-sequence of their own, so that the
            # sample's scene never depends on its neighbours.
            scene = draw_scene(self.kind, seed, split, index * 1000 + attempt)
            for ask in scene.asks:
                if ask.source == self.name:
                    return to_sample(scene, ask, f"{self.name}/{split}/{seed}/{index}")
        raise AssertionError(f"scene kind {self.kind!r} never allows {self.name!r}")


SOURCES: Mapping[str, Drawn] = MappingProxyType(
    {
        name: Drawn(name, kind)
        for name, kind in (
            ("math/digit_sum", "handwriting"),
            ("math/expression", "expression"),
            ("puzzle/sequence", "sequence"),
            ("puzzle/odd_one_out", "odd_one_out"),
            ("science/lever", "lever"),
            ("science/thermometer", "thermometer"),
            ("chart/bar_value", "bars"),
            ("chart/tallest", "bars"),
            ("chart/pie", "pie"),
            ("detection/digits", "digits"),
            ("detection/shapes", "shapes"),
            ("grounding/largest", "digits"),
            ("grounding/digit", "digits"),
            ("grounding/shape", "shapes"),
            ("counting/digits", "digits"),
            ("counting/shapes", "shapes"),
            ("ocr/handwriting", "handwriting"),
            ("ocr/word", "word"),
        )
    }
)
TASKS: tuple[str, ...] = tuple(dict.fromkeys(name.split("/")[0] for name in SOURCES))
