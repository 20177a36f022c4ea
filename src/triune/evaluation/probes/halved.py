"""Resolution halved: how much of the score needs fine detail."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from triune.core.sample import Media, Sample
from triune.evaluation.probes import PROBES, Probed, change, pixels


@PROBES.register("halved")
def halved(samples: Sequence[Sample]) -> Probed:
    """Every picture is shrunk to half its width and height, each at least one pixel, by averaging, and enlarged again to its
    size: three quarters of its pixels are gone, while tokens, frames and boxes mean what they meant. One that stays
    as it is, such as a single colour, is left out."""

    def coarse(sample: Sample) -> Sequence[Media] | str:
        if all(max(medium.size) < 2 for medium in sample.media):
            return "a single pixel"
        found = [Media.from_image(_coarse(medium.image())) for medium in sample.media]
        same = all(pixels(was) == pixels(now) for was, now in zip(sample.media, found, strict=True))
        return "has no detail to lose" if same else found

    return change(samples, coarse)


def _coarse(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    small = picture.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.BOX)
    return small.resize(picture.size, Image.Resampling.BICUBIC)
