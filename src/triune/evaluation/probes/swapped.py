"""Pictures of another sample: is it this picture that is answered, or any?"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from PIL import Image

from triune.core.sample import Media, Sample
from triune.evaluation.probes import PROBES, Probed, change, pixels, unchangeable


@PROBES.register("swapped")
def swapped(samples: Sequence[Sample]) -> Probed:
    """Every sample has the pictures of another one of its source, with as many pictures, none of which is one of its own (by
    what it shows, however the file is encoded). Which one depends on the samples' ids alone, not on their order. A picture
    takes the size of the one that it replaces."""
    alike: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=_order):
        if not unchangeable(sample):
            alike[sample.source, len(sample.media)].append(sample)
    place = {
        (sample.source, sample.id): number for found in alike.values() for number, sample in enumerate(found)
    }
    known: dict[str, tuple[tuple[int, int], bytes]] = {}

    def seen(medium: Media) -> tuple[tuple[int, int], bytes]:
        if medium.sha256 not in known:
            known[medium.sha256] = pixels(medium)
        return known[medium.sha256]

    def other(sample: Sample) -> Sequence[Media] | str:
        found, own = alike[sample.source, len(sample.media)], {seen(medium) for medium in sample.media}
        start = place[sample.source, sample.id]
        for candidate in (*found[start + 1 :], *found[:start]):
            if candidate.id == sample.id or not own.isdisjoint(map(seen, candidate.media)):
                continue
            shown = [_sized(m, was.size) for m, was in zip(candidate.media, sample.media, strict=True)]
            if own.isdisjoint(map(pixels, shown)):
                return shown
        return "no other sample of the source has as many pictures, all of them others"

    return change(samples, other)


def _order(sample: Sample) -> tuple[str, str]:
    """An order that has nothing to do with how samples were numbered."""
    return hashlib.sha256(sample.id.encode()).hexdigest(), sample.id


def _sized(medium: Media, size: tuple[int, int]) -> Media:
    if medium.size == size:
        return medium
    return Media.from_image(medium.image().resize(size, Image.Resampling.BICUBIC))
