"""What shapes and adjustments see: one whole step, before it is cut into mini-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.schedule import Progress
from triune.monitor.metric import Scored


@dataclass(slots=True)
class Step:
    """`batch` holds flat vectors of all rollouts (no payload), `scored` the rollouts in its order, `views` what was
    evaluated without gradient. `credit` is None until the advantage was computed."""

    batch: Batch
    scored: Sequence[Scored]
    rewards: Rewards
    views: Mapping[str, Evaluated]
    progress: Progress
    credit: Credit | None = None
