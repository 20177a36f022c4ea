"""Probes: the same held-out samples with other pictures, to see what of a score comes from looking. One file each.

    @PROBES.register("mine")
    def mine(samples: Sequence[Sample]) -> Probed: ...

A probe changes pictures and nothing else: prompt, truth and checks stay, and so does the size of every picture, so that tokens,
frames and boxes mean what they meant. What it cannot change is left out and counted, never scored as if it were changed.
Answers are judged against the samples as they were.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from triune.core.registry import Registry
from triune.core.sample import Media, Sample
from triune.monitor.metric import Metric, Scored, scalar
from triune.monitor.stats import bootstrap

NO_PICTURE, VIDEO = "no picture", "video"
"""Why every probe leaves a sample out."""


@dataclass(frozen=True, slots=True)
class Probed:
    """Samples as they are asked, the same as they were, and how many were left out, by source and reason."""

    samples: Sequence[Sample]
    originals: Sequence[Sample]
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    def metrics(self, answers: Sequence[Scored], seen: Sequence[Scored]) -> list[Metric]:
        """What was left out, and the drop of accuracy against `seen`, the answers to the samples as they were."""
        found = [
            scalar("probe/left_out", count, source=source, reason=reason)
            for (source, reason), count in sorted(self.left_out.items())
        ]
        return found + (drop_metrics(seen, answers) if answers and seen else [])


Probe = Callable[[Sequence[Sample]], Probed]
PROBES: Registry[Probe] = Registry("probe", "triune.evaluation.probes")


def look(probe: str, samples: Sequence[Sample]) -> Probed:
    """The samples as a probe shows them; as they are where it is ''. Raises RecipeError for an unknown name and DataError for a
    picture that cannot be read."""
    return PROBES[probe](samples) if probe else Probed(samples, samples)


def change(samples: Sequence[Sample], pictures: Callable[[Sample], Sequence[Media] | str]) -> Probed:
    """What a probe returns: every sample with the pictures that it is given, or left out for the reason that is given instead."""
    changed, originals, left_out = [], [], Counter[tuple[str, str]]()
    for sample in samples:
        found = unchangeable(sample) or pictures(sample)
        if isinstance(found, str):
            left_out[sample.source, found] += 1
            continue
        changed.append(sample.model_copy(update={"media": tuple(found)}))
        originals.append(sample)
    return Probed(changed, originals, left_out)


def unchangeable(sample: Sample) -> str:
    """Why no probe can change a sample, '' if one can."""
    if not sample.media:
        return NO_PICTURE
    return VIDEO if any(medium.kind != "image" for medium in sample.media) else ""


def pixels(medium: Media) -> tuple[tuple[int, int], bytes]:
    """What a picture shows: equal for two files of equal pixels, however they are encoded."""
    return medium.size, hashlib.sha256(medium.image().tobytes()).digest()


# -- the drop ----------------------------------------------------------------------------------------------------------

Values = Mapping[str, Sequence[float | None]]
"""Accuracy by sample: of one answer or several, None where it could not be judged."""


@dataclass(frozen=True, slots=True)
class Drop:
    """How much accuracy falls, sample by sample: f64[n] each of the same samples, with pictures and less without. `unpaired`
    counts samples that only one side has a score of."""

    seen: Sequence[float]
    lost: Sequence[float]
    unpaired: int

    def ci95(self, name: str) -> tuple[float, float] | None:
        """Of the mean drop, by the bootstrap over samples; the name seeds it. None for fewer than two."""
        return bootstrap([np.array(self.lost)], seed=zlib.crc32(name.encode()))


def drop(seen: Values, probed: Values) -> Drop:
    """Pairs two evaluations by sample; several answers to one count as their mean."""
    first, second = (
        {key: mean for key, v in one.items() if (mean := _mean(v)) is not None} for one in (seen, probed)
    )
    both = sorted(first.keys() & second.keys())
    return Drop(
        seen=[first[key] for key in both],
        lost=[first[key] - second[key] for key in both],
        unpaired=len({*probed} - set(both)),
    )


def drop_metrics(seen: Sequence[Scored], probed: Sequence[Scored]) -> list[Metric]:
    """Per source `probe/drop` and `probe/seen` (one value a sample) and `probe/unpaired`; the ends of the drop's 95 % interval,
    `probe/drop_low` and `probe/drop_high`, also without a source: of all samples together."""
    tasks = {one.sample.source: one.sample.task for one in probed}
    first, second = by_source(seen), by_source(probed)
    found: list[Metric] = []
    everything: list[float] = []
    for source, values in sorted(second.items()):
        one = drop(first.get(source, {}), values)
        labels = {"source": source, "task": tasks[source]}
        found.append(scalar("probe/unpaired", one.unpaired, **labels))
        if one.lost:
            found += [
                Metric.of("probe/drop", one.lost, **labels),
                Metric.of("probe/seen", one.seen, **labels),
            ]
            found += _interval(one, source, labels)
            everything += one.lost
    return found + _interval(Drop([], everything, 0), "", {})


def _interval(one: Drop, name: str, labels: Mapping[str, str]) -> list[Metric]:
    ends = one.ci95(name) if one.lost else None
    return [] if ends is None else [
        scalar("probe/drop_low", ends[0], **labels), scalar("probe/drop_high", ends[1], **labels)
    ]  # fmt: skip


def by_source(answers: Iterable[Scored]) -> dict[str, Values]:
    """Accuracy (the value of the main check) by source and sample."""
    found: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for one in answers:
        found[one.sample.source][one.sample.id].append(one.verdict.main.value)
    return {source: dict(values) for source, values in found.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
