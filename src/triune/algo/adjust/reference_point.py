"""The reference point of KTO: how far the policy is from its reference at the start of the step."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.pairs import seats
from triune.algo.step import Step
from triune.algo.types import segment_sum
from triune.core.errors import RecipeError
from triune.core.trajectory import BASELINE
from triune.monitor.metric import Metric, scalar


@ADJUSTMENTS.register("reference_point")
class ReferencePoint(AdjustOptions):
    """z = max(0, mean over rows of log pi(y) - log pi_ref(y)), an estimate of KL(pi, pi_ref), for every row of the step.

    `rows: answers` takes the answers that are trained: unbiased where the policy drew them, too large where it is trained on
    them. `rows: mismatched` takes rows whose answer belongs to another prompt, as in the paper and in TRL; the collector
    `mismatched` places them, one more row per sample. Sums over an answer's decisions; by the weights at the start of the step.
    """

    kind: Literal["reference_point"] = "reference_point"
    rows: Literal["answers", "mismatched"] = Field(
        default="answers", description="rows that the mean is over"
    )
    reference: str = Field(default="reference", description="view that they are compared with")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.reference, "old.placed"})

    def __call__(self, step: Step) -> list[Metric]:
        batch, credit = step.batch, step.credit
        assert credit is not None
        other = torch.tensor([t.component == BASELINE for t in batch.trajectories], dtype=torch.bool)
        wanted = other if self.rows == "mismatched" else credit.in_loss & ~other
        live = wanted[batch.trajectory]
        if credit.masked is not None:
            live = live & ~credit.masked
        if self.rows == "mismatched" and not bool(live.any()):
            raise RecipeError(
                "reference_point: rows: mismatched finds no such rows; add to algo.collect: "
                "{mismatched: {kind: mismatched}}, and draw two samples per step or more"
            )
        ratio = torch.where(live, step.views["old"].logp - step.views[self.reference].logp, 0.0).double()
        owner, count = seats(batch)[batch.trajectory], len(batch.trajectories)
        answers = (segment_sum(live.double(), owner, count) > 0).sum().clamp(min=1)
        mean = float(ratio.sum() / answers)
        credit.point = torch.full((count,), max(0.0, mean))
        return [scalar("kto/point", max(0.0, mean)), scalar("kto/point_unclamped", mean)]
