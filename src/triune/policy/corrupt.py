"""Corrupted pictures: what a policy is shown in place of a picture, to see how much its answers owe to it.

A corruption takes a decoded picture and gives one of the same size, so that a processor makes the same number of visual
tokens of it. It draws from the generator that it is handed and from nothing else. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydantic import Field

from triune.core.base import Frozen
from triune.core.schedule import Progress

STEPS = 1000
"""Steps of the forward diffusion that `noise` is taken from."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a corruption may know: the random numbers that are its own, how far the run is, the picture's size after the
    processor (width, height), and another picture of the same step (None: there is none)."""

    rng: np.random.Generator
    progress: Progress
    processed: tuple[int, int]
    other: Callable[[], Image.Image | None]


class Corruption(Frozen):
    """`strength` is what a schedule makes of it at this progress, where it has one."""

    def __call__(self, image: Image.Image, scene: Scene) -> Image.Image | None:
        """A picture of the same size; None where nothing can be made of this one."""
        raise NotImplementedError

    def strength(self, progress: Progress) -> float | None:
        return None


class Patches(Corruption):
    """Squares of a grid are blackened, each with its own coin (PAPO, arXiv 2507.06448).

    PAPO's code lays the grid on the stored picture; with `grid: processed` it is laid on what the processor makes of it,
    where squares of the tower's own patch size cover whole patches.
    """

    kind: Literal["patches"] = "patches"
    patch: int = Field(default=14, ge=1, description="side of a square in pixels")
    probability: float = Field(default=0.6, ge=0, le=1, description="of a square to become black")
    grid: Literal["stored", "processed"] = Field(
        default="stored",
        description="whose pixels `patch` counts: the stored picture's or the processed one's",
    )

    def __call__(self, image: Image.Image, scene: Scene) -> Image.Image:
        pixels = np.array(image)
        height, width = pixels.shape[:2]
        over = (width, height) if self.grid == "stored" else scene.processed
        column = np.arange(width) * over[0] // width // self.patch
        row = np.arange(height) * over[1] // height // self.patch
        black = scene.rng.random((int(row[-1]) + 1, int(column[-1]) + 1)) < self.probability
        pixels[black[row[:, None], column[None, :]]] = 0
        return Image.fromarray(pixels)


class Blank(Corruption):
    """One colour all over."""

    kind: Literal["blank"] = "blank"
    colour: Literal["mean", "black"] = Field(
        default="mean", description="the picture's mean colour, or black"
    )

    def __call__(self, image: Image.Image, scene: Scene) -> Image.Image:
        mean = np.array(image).reshape(-1, 3).mean(0).round().astype(int).tolist()
        return Image.new("RGB", image.size, (0, 0, 0) if self.colour == "black" else tuple(mean))


class Noise(Corruption):
    """A step t of a diffusion forwards: sqrt(abar_t) x + sqrt(1 - abar_t) e on pixels in [0, 1], cut off at the ends.

    b_i = sigmoid(linspace(-6, 6, 1000))_i (5e-3 - 1e-5) + 1e-5 and abar_t = prod_{i <= t} (1 - b_i). The step falls with
    the run: t = start * (1 - sigmoid(steepness * (progress - middle))), at most 999. With 500, 10 and .5 it is DVRP's
    (arXiv 2601.06801); NoisyRollout's (arXiv 2504.13055) is the same with start a0, steepness lambda and middle g / t_max.
    """

    kind: Literal["noise"] = "noise"
    start: float = Field(
        default=500, ge=0, le=STEPS, description="diffusion step that the schedule comes from"
    )
    steepness: float = Field(default=10, ge=0, description="how suddenly it falls")
    middle: float = Field(
        default=0.5, ge=0, le=1, description="fraction of the run at which half of it is left"
    )

    def strength(self, progress: Progress) -> float:
        """The diffusion step, 0 .. 999."""
        left = 1 / (1 + math.exp(self.steepness * (progress.fraction - self.middle)))
        return min(float(STEPS - 1), self.start * left)

    def __call__(self, image: Image.Image, scene: Scene) -> Image.Image:
        kept = alpha_bar()[int(self.strength(scene.progress))]
        x = np.asarray(image, np.float32) / 255
        drawn = scene.rng.standard_normal(x.shape, np.float32)
        noisy = (math.sqrt(kept) * x + math.sqrt(1 - kept) * drawn).clip(0, 1)
        return Image.fromarray((noisy * 255).round().astype(np.uint8))


class Blur(Corruption):
    """A Gaussian blur."""

    kind: Literal["blur"] = "blur"
    radius: float = Field(gt=0, description="standard deviation in pixels of the stored picture")

    def __call__(self, image: Image.Image, scene: Scene) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(self.radius))


class Downscale(Corruption):
    """Made smaller and large again: detail below `factor` pixels is gone, layout and colours stay."""

    kind: Literal["downscale"] = "downscale"
    factor: float = Field(gt=1, description="how many times smaller each side becomes")

    def __call__(self, image: Image.Image, scene: Scene) -> Image.Image:
        width, height = image.size
        small = (max(1, round(width / self.factor)), max(1, round(height / self.factor)))
        return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


class Swap(Corruption):
    """Another picture of the same step, stretched to this one's size: everything in it is plausible, and wrong. A step
    with one picture has no other, and leaves it as it is."""

    kind: Literal["swap"] = "swap"

    def __call__(self, image: Image.Image, scene: Scene) -> Image.Image | None:
        other = scene.other()
        return None if other is None else other.resize(image.size, Image.Resampling.BICUBIC)


AnyCorruption = Annotated[Patches | Blank | Noise | Blur | Downscale | Swap, Field(discriminator="kind")]


@cache
def alpha_bar() -> NDArray[np.float64]:
    """What is left of a picture's variance after each diffusion step, f64[1000]."""
    beta = 1 / (1 + np.exp(-np.linspace(-6, 6, STEPS))) * (5e-3 - 1e-5) + 1e-5
    return np.asarray(np.cumprod(1 - beta), np.float64)
