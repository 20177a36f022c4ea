"""Corrupted views of the language family: the same weights, other pictures before the same tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from triune.algo.types import Batch, Evaluated
from triune.algo.views.corrupted import CorruptedPictures
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, scalar
from triune.policy.corrupt import Scene
from triune.policy.views import Still
from triune.rollout.engine import derive_seed

if TYPE_CHECKING:
    from triune.policy.language import LanguageFamily
    from triune.policy.media import Prepared


class CorruptedView(Still):
    """Draws the corruption of every picture once per step, from the run's seed, the step, the view and the picture's
    content; corrupted pictures have the visual tokens of the real ones, and features that are kept like theirs."""

    def __init__(self, family: LanguageFamily, name: str, options: CorruptedPictures) -> None:
        self.family, self.name, self.options = family, name, options
        self.seed, self.progress = 0, Progress(step=0, total_steps=1)
        self._drawn: list[bool] = []

    def begin(self, seed: int, progress: Progress) -> None:
        self.seed, self.progress = seed, progress
        self.family.pictures.forget(self.name)
        self._drawn.clear()

    def evaluate(self, batch: Batch, want: frozenset[str]) -> Evaluated:
        return self.family.score(batch, want, self.shown)

    def shown(self, key: str) -> str:
        """The key of the picture that takes this one's place."""
        return self.family.pictures.altered(key, self.name, self._corrupt)

    def _corrupt(self, prepared: Prepared) -> Image.Image | None:
        draw = derive_seed(self.seed, "view", self.name, self.progress.step, prepared.seen.sha256)
        rng = np.random.default_rng(draw)

        def other() -> Image.Image | None:
            found = self.family.pictures.others(prepared.seen.sha256)
            return found[int(rng.integers(len(found)))].image() if found else None

        scene = Scene(rng, self.progress, prepared.seen.processed, other)
        made = self.options.corruption(prepared.medium.image(), scene)
        self._drawn.append(made is not None)
        return made

    def metrics(self, batches: Sequence[Batch]) -> list[Metric]:
        """Rollouts without pictures, which look the same in this view, by source; pictures that nothing could be made of;
        and the schedule's strength."""
        rows: Counter[str] = Counter()
        blind: Counter[str] = Counter()
        for batch in batches:
            for one in batch.trajectories:
                rows[one.source] += 1
                blind[one.source] += not one.payload.media
        found = [
            scalar("view/unseen", blind[source] / rows[source], source=source, view=self.name)
            for source in rows
        ]
        if self._drawn:
            found.append(scalar("view/unchanged", 1 - sum(self._drawn) / len(self._drawn), view=self.name))
        strength = self.options.corruption.strength(self.progress)
        return found if strength is None else [*found, scalar("view/strength", strength, view=self.name)]
