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
        arrays = [one.trajectory.payload.arrays.get("ids") for one in scored]
        ids = np.concatenate([np.zeros(0, np.int32), *(array for array in arrays if array is not None)])
        missing = int(ids.max(initial=-1)) + 1 - len(self._known)
        if missing > 0:
            self._known = np.concatenate([self._known, np.zeros(missing, np.bool_)])
        new = np.unique(ids[~self._known[ids]])
        self._known[new] = True
        chosen: list[int] = new.tolist()
        return dict(zip(chosen, spell(chosen), strict=True)) if chosen else {}


def samples_of(scored: Iterable[Scored]) -> list[Sample]:
    """The samples of these rollouts, each once."""
    return list({id(one.sample): one.sample for one in scored}.values())


def met(scored: Iterable[Scored], others: Iterable[Media]) -> list[Media]:
    """Of other pictures, those that tools or environments showed in these rollouts."""
    seen = {picture.sha256 for one in scored for picture in one.outcome.media}
    return [medium for medium in others if medium.sha256 in seen]
