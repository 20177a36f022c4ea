"""Weights that a recorded answer puts on its own words."""

from __future__ import annotations

from typing import Literal

import torch

from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.step import Step
from triune.algo.weights import by_source
from triune.monitor.metric import Metric
from triune.rollout.recorded import EMPHASIS


@ADJUSTMENTS.register("emphasis")
class Emphasis(AdjustOptions):
    """Each decision of a recorded answer counts by the weight that the answer's `emphasis` gives its characters, else 1: in a
    preference term, a factor on its log-ratio (OPA-DPO weighs tokens by the severity of what they say)."""

    kind: Literal["emphasis"] = "emphasis"

    def __call__(self, step: Step) -> list[Metric]:
        batch, credit = step.batch, step.credit
        assert credit is not None
        scale = torch.ones(batch.num_decisions)
        start = 0
        for one in batch.trajectories:
            for event in one.events:
                if event.name == EMPHASIS and event.value is not None:
                    scale[start + event.decision] = event.value
            start += len(one.decisions)
        step.weigh(scale)
        live = credit.in_loss[batch.trajectory] & ~batch.sampled
        return by_source(batch, live, {"emphasis": scale})
