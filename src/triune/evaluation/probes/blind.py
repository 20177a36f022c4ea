"""Pictures blanked: what is left of the score is not seen but guessed."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from triune.core.sample import Media, Sample
from triune.evaluation.probes import PROBES, Probed, change, pixels

GREY = (127, 127, 127)


@PROBES.register("blind")
def blind(samples: Sequence[Sample]) -> Probed:
    """Every picture is uniform grey of the same size. One that is so already is left out."""

    def blanked(sample: Sample) -> Sequence[Media] | str:
        grey = [Media.from_image(Image.new("RGB", medium.size, GREY)) for medium in sample.media]
        same = all(pixels(was) == pixels(now) for was, now in zip(sample.media, grey, strict=True))
        return "is blank already" if same else grey

    return change(samples, blanked)
