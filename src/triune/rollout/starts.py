"""What a rollout begins with, when it does not begin with nothing: the first part of a recorded answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """The first `share` of the ids of `text` (with the end of its turn), but at least `least` of them and never all."""

    text: str
    share: float
    least: int = 1

    def cut(self, ids: Sequence[int]) -> list[int]:
        """max(least, floor(share x n)) of n ids, at most n - 1 (Prefix-RFT, `_get_prefix`)."""
        # A share of 0.95 of 20 ids is 19 whatever the rounding of 0.95 * 20.
        wanted = max(self.least, math.floor(self.share * len(ids) + 1e-9))
        return list(ids[: max(0, min(wanted, len(ids) - 1))])
