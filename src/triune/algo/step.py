"""What shapes and adjustments see: one whole step, before it is cut into mini-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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

    def sampled_in_loss(self, component: str) -> Tensor:
        """Decisions of a component that were sampled and that nothing has taken out of the loss, bool[N]."""
        assert self.credit is not None
        mine = torch.tensor([name == component for name in self.batch.components], dtype=torch.bool)
        live = self.credit.in_loss[self.batch.trajectory] & self.batch.sampled & mine[self.batch.component]
        return live if self.credit.masked is None else live & ~self.credit.masked

    def mask(self, gone: Tensor) -> None:
        """Takes decisions `gone` bool[N] out of the loss and of its denominators."""
        assert self.credit is not None
        self.credit.masked = gone if self.credit.masked is None else self.credit.masked | gone

    def weigh(self, factor: Tensor) -> None:
        """Multiplies the loss of every decision by `factor` f32[N]; the denominators stay."""
        assert self.credit is not None
        self.credit.scale = factor if self.credit.scale is None else self.credit.scale * factor
