"""ReMax: the reward of a greedy answer as the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from triune.algo.advantages.returns import rewards_to_go
from triune.algo.advantages.statistics import Estimator, Groups
from triune.algo.collect.greedy import GreedyAnswers
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.errors import RecipeError
from triune.core.trajectory import BASELINE


@ADVANTAGES.register("remax")
class ReMax(Estimator):
    """Rewards to go minus the reward of a greedy answer to the same prompt (Li et al. 2023, arXiv 2310.10505).

    The greedy answers are rows of the component `baseline`, which `collect: {greedy: {kind: greedy}}` asks for: one more
    rollout per prompt. Where the greedy answer could not be judged, its group leaves the loss (`no_baseline`).
    """

    kind: Literal["remax"] = "remax"

    @property
    def keeps_equal(self) -> str:
        return "the baseline is the reward of a greedy answer, not that of the group"

    def agree(self, parts: Mapping[str, Any]) -> None:
        if not any(isinstance(part, GreedyAnswers) for part in parts.values()):
            raise RecipeError(
                "remax compares with a greedy answer: put greedy: {kind: greedy} into algo.collect"
            )

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        """Raises RecipeError for a group without a greedy answer."""
        groups = Groups.of(batch, rewards)
        greedy = torch.tensor([one.component == BASELINE for one in batch.trajectories], dtype=torch.bool)
        asked = torch.zeros_like(groups.silent).index_fill(0, groups.index[greedy], True)
        for row in torch.nonzero(groups.counted & ~asked[groups.index])[:, 0].tolist():
            raise RecipeError(
                f"group {batch.trajectories[row].group!r} has no greedy answer to compare with: remax needs one, put "
                "greedy: {kind: greedy} into algo.collect"
            )
        baseline = torch.full_like(groups.members, float("nan"))
        baseline[groups.index[greedy]] = rewards.total[greedy].double()
        baseline = baseline[groups.index]
        for row in torch.nonzero(baseline.isnan())[:, 0].tolist():
            if groups.reasons[row] in ("", "fragment"):
                groups.in_loss[row] = groups.counted[row] = groups.judged[row] = False
                groups.reasons[row] = "no_baseline"
        returns = rewards_to_go(batch, rewards.placed, gamma=1.0)
        return groups.credit_decisions(returns - baseline.nan_to_num(0.0)[batch.trajectory])
