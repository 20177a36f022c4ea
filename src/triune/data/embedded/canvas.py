"""A 64 x 64 scene under construction: what is drawn, where it is, and what may be asked about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import JsonValue

from triune.core.sample import Check
from triune.data.embedded.assets import Assets, font

SIZE = 64
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 48, 44), "green": (40, 170, 60), "blue": (52, 92, 232), "yellow": (246, 214, 40),
    "white": (245, 245, 245), "black": (18, 18, 18),
}  # fmt: skip
PAINTS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle", "star")
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Thing:
    """A drawn object: `kind` (a digit, letter, shape, bar, ...), its colour, and its tight half-open pixel box."""

    kind: str
    colour: str
    box: Box

    @property
    def area(self) -> int:
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@dataclass(frozen=True, slots=True)
class Ask:
    """A question about a scene: its truth, its reward routing, and the answer that a careful annotator writes.

    `prefix` is text that the answer's value follows (the visible reasoning), kept apart so that annotators'
    faults can be planted in the value. `form` says how the answer is written: number, word, option, boxes.
    """

    source: str
    question: str
    truth: JsonValue
    checks: tuple[Check, ...]
    answer: str
    form: str
    options: tuple[str, ...] = ()


@dataclass(slots=True)
class Scene:
    """An image under construction with the things on it; `pixels` is uint8 [64, 64, 3]."""

    rng: np.random.Generator
    assets: Assets
    pixels: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((SIZE, SIZE, 3), np.uint8))
    things: list[Thing] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)

    def photo(self) -> None:
        """A real photograph as background: a random crop, softened and flattened so that small ink stays legible."""
        source = self.assets.photos[self.rng.integers(len(self.assets.photos))]
        side = int(self.rng.integers(48, 80))
        top = int(self.rng.integers(source.shape[0] - side + 1))
        left = int(self.rng.integers(source.shape[1] - side + 1))
        crop = Image.fromarray(source[top : top + side, left : left + side]).resize((SIZE, SIZE))
        pixels = np.asarray(crop, np.float32)
        if self.rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        mean = pixels.mean(axis=(0, 1), keepdims=True)
        self.pixels = (mean + 0.55 * (pixels - mean)).clip(0, 255).astype(np.uint8)

    def plain(self) -> None:
        """A paper-like background."""
        tone = self.rng.integers(225, 256, 3)
        self.pixels = np.broadcast_to(tone, (SIZE, SIZE, 3)).astype(np.uint8).copy()

    def place(self, count: int, low: int, high: int, gap: int = 1) -> list[tuple[int, int, int]]:
        """`count` non-overlapping squares (x, y, side), sides in [low, high]; shrinks them if they do not fit."""
        while True:
            spots: list[tuple[int, int, int]] = []
            for _ in range(60 * count):
                side = int(self.rng.integers(low, high + 1))
                x, y = (int(v) for v in self.rng.integers(0, SIZE - side + 1, 2))
                if all(
                    x + side + gap <= a or a + s + gap <= x or y + side + gap <= b or b + s + gap <= y
                    for a, b, s in spots
                ):
                    spots.append((x, y, side))
                    if len(spots) == count:
                        return spots
            low, high = max(8, low - 1), max(10, high - 2)

    def digit(self, value: int, x: int, y: int, side: int) -> Thing:
        """Composes a real handwritten digit into the square at (x, y), with ink that stands out of its surroundings."""
        pool = self.assets.digits[value]
        glyph = Image.fromarray(pool[self.rng.integers(len(pool))]).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        glyph = glyph.rotate(float(self.rng.uniform(-8, 8)), Image.Resampling.BILINEAR)
        alpha = np.asarray(glyph, np.float32) / 255
        patch = self.pixels[y : y + side, x : x + side]
        light = patch.mean() < 140
        ink = np.asarray(COLOURS["white" if light else "black"], np.float32)
        tone = 0.62 if light else 1.45
        shaded = (patch * tone).clip(0, 255)
        self.pixels[y : y + side, x : x + side] = (
            shaded * (1 - alpha[..., None]) + ink * alpha[..., None]
        ).astype(np.uint8)
        return self._add(str(value), "white" if light else "black", alpha > 0.3, x, y)

    def shape(self, kind: str, colour: str, x: int, y: int, side: int) -> Thing:
        """Draws a filled shape with a thin dark outline inside the square at (x, y)."""
        scale = 4
        mask = Image.new("L", (side * scale, side * scale))
        pen, end = ImageDraw.Draw(mask), side * scale - 1
        if kind == "circle":
            pen.ellipse((0, 0, end, end), fill=255)
        elif kind == "square":
            pen.rectangle((0, 0, end, end), fill=255)
        elif kind == "triangle":
            pen.polygon([(end / 2, 0), (end, end), (0, end)], fill=255)
        else:
            angles = np.arange(10) * np.pi / 5 - np.pi / 2
            radii = np.where(np.arange(10) % 2, 0.42, 1.0) * end / 2
            points = np.stack([end / 2 + radii * np.cos(angles), end / 2 + radii * np.sin(angles)], 1)
            pen.polygon([(float(a), float(b)) for a, b in points], fill=255)
        alpha = np.asarray(mask.resize((side, side), Image.Resampling.BOX), np.float32) / 255
        ink = np.asarray(COLOURS[colour], np.float32) * self.rng.uniform(0.85, 1.0)
        patch = self.pixels[y : y + side, x : x + side]
        self.pixels[y : y + side, x : x + side] = (
            patch * (1 - alpha[..., None]) + ink * alpha[..., None]
        ).astype(np.uint8)
        return self._add(kind, colour, alpha > 0.3, x, y)

    def write(self, text: str, x: int, y: int, size: int, colour: str = "black") -> int:
        """Writes text in one of the split's real fonts, a thing per character; returns the x after the last one."""
        path = self.assets.fonts[self.rng.integers(len(self.assets.fonts))]
        face = font(path, size)
        canvas = Image.fromarray(self.pixels)
        pen = ImageDraw.Draw(canvas)
        for char in text:
            left, top, right, bottom = pen.textbbox((x, y), char, font=face)
            pen.text((x, y), char, font=face, fill=COLOURS[colour])
            if right > left:
                x1, y1, x2, y2 = (int(np.clip(v, 0, SIZE)) for v in (left, top, right, bottom))
                self.things.append(Thing(char, colour, (x1, y1, x2, y2)))
            x += int(np.ceil(pen.textlength(char, font=face))) + 1
        self.pixels = np.array(canvas)
        return x

    def rectangle(self, kind: str, colour: str, box: Box, thing: bool = True) -> None:
        """Fills a half-open box."""
        x1, y1, x2, y2 = box
        self.pixels[y1:y2, x1:x2] = COLOURS[colour]
        if thing:
            self.things.append(Thing(kind, colour, box))

    def _add(self, kind: str, colour: str, mask: NDArray[np.bool_], x: int, y: int) -> Thing:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(x + columns[0]), int(y + rows[0]), int(x + columns[-1] + 1), int(y + rows[-1] + 1))
        thing = Thing(kind, colour, box)
        self.things.append(thing)
        return thing


def boxed(value: object) -> str:
    return f"\\boxed{{{value}}}"


def boxes_text(boxes: Sequence[Box], labels: Sequence[str] | None) -> str:
    """The answer format of V-Triune for boxes: JSON inside answer tags."""
    items = []
    for index, box in enumerate(boxes):
        label = f',"label":"{labels[index]}"' if labels is not None else ""
        items.append('{"bbox_2d":[' + ",".join(map(str, box)) + "]" + label + "}")
    return "<answer>[" + ",".join(items) + "]</answer>"
