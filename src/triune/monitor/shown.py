"""What saved rollouts need besides themselves to be looked at: the text of their tokens, and the pictures that they met."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from triune.core.media import Media
from triune.core.sample import Sample
from triune.monitor.metric import Scored

Spell = Callable[[Sequence[int]], Sequence[str]]
"""The text of each token id: the `pieces` of a family that has a tokenizer."""


class Vocabulary:
    """Remembers which token ids have been spelt, so that each is spelt once in a run."""

    def __init__(self) -> None:
        self._known = np.zeros(0, np.bool_)

    def new(self, scored: Iterable[Scored], spell: Spell | None) -> dict[int, str]:
        """The text of the ids in these rollouts that were in none before."""
        if spell is None:
            return {}
        found: set[int] = set()
        for one in scored:
            ids = one.trajectory.payload.arrays.get("ids")
            if ids is None or not ids.size:
                continue
            if (largest := int(ids.max())) >= len(self._known):
                self._known = np.concatenate(
                    [self._known, np.zeros(largest + 1 - len(self._known), np.bool_)]
                )
            unknown = ids[~self._known[ids]]
            if unknown.size:
                found.update(unknown.tolist())
                self._known[unknown] = True
        chosen = sorted(found)
        return dict(zip(chosen, spell(chosen), strict=True)) if chosen else {}


def samples_of(scored: Iterable[Scored]) -> list[Sample]:
    """The samples of these rollouts, each once."""
    return list({id(one.sample): one.sample for one in scored}.values())


def met(scored: Iterable[Scored], others: Iterable[Media]) -> list[Media]:
    """Of other pictures, those that tools or environments showed in these rollouts."""
    seen = {picture.sha256 for one in scored for picture in one.outcome.media}
    return [medium for medium in others if medium.sha256 in seen]
