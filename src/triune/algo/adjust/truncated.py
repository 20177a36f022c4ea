"""The over-long mask: what a limit cut is judged, and compared with, but not learnt from."""

from __future__ import annotations

from typing import Literal

from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.step import Step
from triune.monitor.metric import Metric


@ADJUSTMENTS.register("mask_truncated")
class MaskTruncated(AdjustOptions):
    """Truncated rollouts leave the loss and stay in the baseline (over-long filtering, DAPO, arXiv 2503.14476, section
    3.4). The reason is kept with every rollout and counted as `dropped/reason`."""

    kind: Literal["mask_truncated"] = "mask_truncated"

    def __call__(self, step: Step) -> list[Metric]:
        assert step.credit is not None
        for index, trajectory in enumerate(step.batch.trajectories):
            if trajectory.truncated and bool(step.credit.in_loss[index]):
                step.credit.in_loss[index] = False
                step.credit.reasons[index] = "truncated"
        return []
