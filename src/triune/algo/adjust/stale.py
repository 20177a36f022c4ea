"""Rollouts that older weights drew: how old may they be."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.step import Step
from triune.algo.weights import by_source
from triune.monitor.metric import Metric


@ADJUSTMENTS.register("stale")
class Stale(AdjustOptions):
    """Takes out of the loss what weights more than `max_lag` updates old drew (prime-rl's `max_off_policy_steps`: 8).

    The lag of a decision is the number of updates between the weights that drew it and those that the step starts
    from: 0 on policy. `drop: decision` masks each one on its own, out of the loss and its denominators; `drop: row`
    leaves out the whole rollout if its oldest decision is too old. Baselines keep both. The lag and what was
    dropped are reported per source.
    """

    kind: Literal["stale"] = "stale"
    max_lag: int = Field(ge=0, description="largest number of updates since the weights that drew a decision")
    drop: Literal["decision", "row"] = Field(default="decision", description="what leaves the loss")
    component: str = Field(default="policy", description="rollouts that it is about, by their `component`")

    def __call__(self, step: Step) -> list[Metric]:
        batch, credit = step.batch, step.credit
        assert credit is not None
        live = step.sampled_in_loss(self.component)
        lag = (step.progress.step - 1 - batch.version).clamp(min=0)
        old = live & (lag > self.max_lag)
        if self.drop == "row":
            rows = torch.zeros(len(batch.trajectories), dtype=torch.bool)
            rows[batch.trajectory[old]] = True
            for row in torch.nonzero(rows)[:, 0].tolist():
                credit.in_loss[row] = False
                credit.reasons[row] = credit.reasons[row] or "stale"
            old = live & rows[batch.trajectory]
        else:
            step.mask(old)
        return by_source(batch, live, {"stale/lag": lag.double(), "stale/dropped": old})
