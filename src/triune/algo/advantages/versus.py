"""The probability of beating an opponent's answers to the same prompt, less one half."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field

from triune.algo.advantage import membership
from triune.algo.collect.greedy import GreedyAnswers
from triune.algo.collect.mixture import MixtureOpponents
from triune.algo.options import ADVANTAGES, Options
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.errors import RecipeError
from triune.core.trajectory import BASELINE


@ADVANTAGES.register("versus")
class Versus(Options):
    """A_i = mean over the opponent's rows j of the sample of P(y_i beats y_j) - 1/2 (Munos et al. 2023, section 7).

    Opponents are the rows of the component `baseline`, which a collector adds and no term trains: answers of the geometric
    mixture of policy and reference (`mixture`), the policy's own greedy ones (`greedy`), or those of a component that a
    collector of your own places. P is sigmoid((r_i - r_j) / scale), or with `hard` 1, 1/2 and 0. A rollout without an
    opponent gets 0, and its group counts as degenerate.
    """

    kind: Literal["versus"] = "versus"
    opponent: str = Field(default=BASELINE, description="component of the rows that are played against")
    hard: bool = Field(default=False, description="who has the larger reward wins, whatever the distance")
    scale: float = Field(default=1.0, gt=0, description="reward difference in whose units P is a sigmoid")

    def agree(self, parts: Mapping[str, Any]) -> None:
        if self.opponent == BASELINE and not any(
            isinstance(part, (MixtureOpponents, GreedyAnswers)) for part in parts.values()
        ):
            raise RecipeError(
                "versus compares with an opponent's answers: put opponent: {kind: mixture} into algo.collect, or name the "
                "component of those that a collector of your own places"
            )

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        in_loss, counted, reasons = membership(batch, rewards)
        against: dict[str, list[float]] = {}
        for one, reward in zip(batch.trajectories, rewards.total.tolist(), strict=True):
            if one.component == self.opponent and reward == reward:
                against.setdefault(one.sample, []).append(reward)
        advantage = torch.zeros(len(batch.trajectories), dtype=torch.float64)
        groups = {key: i for i, key in enumerate(dict.fromkeys(t.group for t in batch.trajectories))}
        degenerate = torch.ones(len(groups), dtype=torch.bool)
        for index, one in enumerate(batch.trajectories):
            others = against.get(one.sample)
            if one.component == self.opponent or not others or not bool(in_loss[index]):
                continue
            if torch.isnan(rewards.total[index]):
                continue
            apart = rewards.total[index] - torch.tensor(others, dtype=torch.float64)
            won = 0.5 * (apart.sign() + 1) if self.hard else torch.sigmoid(apart / self.scale)
            advantage[index] = won.mean() - 0.5
            degenerate[groups[one.group]] = False
        return Credit(
            advantage=advantage.float()[batch.trajectory] * batch.sampled,
            in_loss=in_loss,
            in_baseline=counted,
            reasons=reasons,
            degenerate=degenerate,
        )
