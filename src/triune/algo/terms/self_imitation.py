"""Learning from oneself: the policy's own best answers as demonstrations (rejection-sampling fine-tuning)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantage import group_index
from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, Rewards, segment_sum
from triune.algo.weights import by_source, decisions


@TERMS.register("self_imitation")
class SelfImitation(TermOptions):
    """-log p of the decisions of rollouts that succeeded; only these are in its denominator (RAFT, arXiv 2304.06767).

    `keep`: `correct`, all that the judge called correct; `best`, of each group the best, if it is better than the worst
    (the first of equals); `positive`, those whose reward is above the mean of their group. A rollout without a score is
    never kept. W = 1 where a rollout is kept, with an advantage of 1.
    """

    kind: Literal["self_imitation"] = "self_imitation"
    keep: Literal["correct", "best", "positive"] = Field(
        default="correct", description="rollouts that are learnt from"
    )

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        judged = credit.in_baseline & ~torch.isnan(rewards.total)
        judged &= torch.tensor([t.component == self.component for t in batch.trajectories], dtype=torch.bool)
        kept = (
            judged & (rewards.correct == 1) if self.keep == "correct" else self._above(batch, rewards, judged)
        )
        masked = ~kept[batch.trajectory]
        if credit.masked is not None:
            masked = masked | credit.masked
        return decisions(self, batch, replace(credit, masked=masked), rows)

    def _above(self, batch: Batch, rewards: Rewards, judged: Tensor) -> Tensor:
        group, count = group_index(batch)
        reward = torch.where(judged, rewards.total, 0.0)
        members = segment_sum(judged.double(), group, count)
        above = judged & (reward > (segment_sum(reward, group, count) / members.clamp(min=1))[group] + 1e-9)
        if self.keep == "positive":
            return above
        best = torch.zeros_like(judged)
        for index in range(count):
            mine = torch.nonzero(above & (group == index))[:, 0]
            if len(mine):
                best[mine[reward[mine].argmax()]] = True
        return best

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        live = batch.live
        loss = torch.where(live, -current.logp, 0.0)
        return TermResult((loss * batch.weight).sum(), by_source(batch, live, {"self_imitation/nll": loss}))
