"""The same answer to the true picture and to a corrupted one: pairs that only a policy that looks can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from triune.algo.options import COLLECTORS, CollectOptions
from triune.core.sample import Media, Sample
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, Scored
from triune.policy.corrupt import AnyCorruption, Patches, Scene
from triune.rollout.engine import derive_seed
from triune.rollout.generator import Demand, Episode
from triune.rollout.placed import place
from triune.rollout.preferred import prefer


@COLLECTORS.register("picture_pairs")
class PicturePairs(CollectOptions):
    """For every chosen answer (or the demonstration) of a sample with pictures, two rows in a group of their own: the answer to
    the true pictures, which is preferred, and the same answer to corrupted ones (mDPO, arXiv 2406.11839; OPA-DPO's CoPO).

    Rows and not a view, so that policy and reference both score both pictures with gradient where it belongs: two more
    rows per answer. The shape `recorded` turns what is preferred into rewards. A corruption is drawn from seed, step and
    picture. `picture_pairs/none` is the share of samples without a picture or an answer, per source.
    """

    kind: Literal["picture_pairs"] = "picture_pairs"
    corruption: AnyCorruption = Field(
        default_factory=lambda: Patches(patch=1, probability=0.3),
        description="what is done to a picture, by its kind",
    )
    component: str = Field(default="pictures", description="the terms that train these rows")

    _without: list[tuple[str, bool]] = PrivateAttr(default_factory=list)

    def place(self, samples: Sequence[Sample], demand: Demand, family: Any) -> list[list[Episode]]:
        rows = []
        for number, sample in enumerate(samples):
            texts = [answer.text for answer in sample.responses if answer.label == "chosen"]
            texts = texts or ([sample.expert] if sample.expert is not None else [])
            blind = self._corrupted(sample, samples[number - 1], demand) if texts and sample.media else None
            self._without.append((sample.source, blind is None))
            if blind is None:
                continue
            family.check(blind)  # makes the new pictures known
            for index, text in enumerate(texts):
                pair = [
                    place(family, shown, text, demand, component=self.component, number=2 * index + rank)
                    for rank, shown in enumerate((sample, blind))
                ]
                group = f"{sample.id}#{self.component}-{index}"
                rows.append([prefer(one, sample, group, rank, 1.0 - rank) for rank, one in enumerate(pair)])
        return rows

    def select(
        self, scored: Sequence[Scored], more: Any, progress: Progress
    ) -> tuple[list[Scored], list[Metric]]:
        sources = dict.fromkeys(source for source, _ in self._without)
        metrics = [
            Metric.of(
                "picture_pairs/none", [float(none) for s, none in self._without if s == source], source=source
            )
            for source in sources
        ]
        self._without.clear()
        return list(scored), metrics

    def _corrupted(self, sample: Sample, neighbour: Sample, demand: Demand) -> Sample | None:
        """The sample with its pictures corrupted; None where nothing can be made of one of them."""
        media = []
        for medium in sample.media:
            seed = derive_seed(demand.seed, demand.version, self.component, medium.sha256)
            others = [m for m in neighbour.media if m.sha256 != medium.sha256]
            scene = Scene(
                np.random.default_rng(seed),
                demand.progress,
                medium.size,
                lambda others=others: others[0].image() if others else None,  # type: ignore[misc]
            )
            made = self.corruption(medium.image(), scene)
            if made is None:
                return None
            media.append(Media.from_image(made))
        return sample.model_copy(update={"id": f"{sample.id} (corrupted)", "media": tuple(media)})
