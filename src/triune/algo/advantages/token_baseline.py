"""The optimal token baseline: one baseline per prompt and place, weighted by how much each path has moved the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field

from triune.algo.advantages.returns import places, rewards_to_go
from triune.algo.advantages.statistics import Estimator, Groups, Singleton, equal, extreme
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards, segment_sum


@ADVANTAGES.register("token_baseline")
class OptimalTokenBaseline(Estimator):
    """A_t = G_t - sum_j G_t W_t / (sum_j W_t + eps) over the rollouts j of the group that are as long, G_t the reward to go,
    W_t = sum_{s <= t} (1 - 2 p_s + sum over the vocabulary of p^2): the squared norm of the logits' gradient so far
    (verl's optimal_token_baseline).

    Needs the sum of squared probabilities of the policy before the update (`old.collision`), so a forward pass over every
    rollout even where the engine is exact. `tail` says what the last one left gets, which has nothing to be compared with.
    """

    kind: Literal["token_baseline"] = "token_baseline"
    eps: float = Field(default=1e-8, ge=0, description="added to the sum of weights")
    tail: Literal["zero", "raw"] = Field(
        default="zero", description="where one rollout of a group is left: no signal, or its reward to go"
    )
    singleton: Singleton = Field(
        default="zero",
        description="a group with one judged rollout: no signal, its rewards to go, or an error if it was sampled alone",
    )

    @property
    def grouped(self) -> bool:
        return self.singleton != "raw"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old.collision"})

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = Groups.of(batch, rewards, self.singleton)
        old, live = views["old"], groups.judged[batch.trajectory] & batch.sampled
        owner, place, count = places(batch)
        spread = 1 - 2 * torch.where(live, old.logp, 0.0).double().exp() + old.extras["collision"].double()
        spread = torch.where(live, spread.clamp(min=0), 0.0)
        length = max(1, int(place.max()) + 1 if len(place) else 1)
        table = torch.zeros(count, length, dtype=torch.float64)
        table[owner[live], place[live]] = spread[live]
        weight = torch.where(live, table.cumsum(1)[owner, place.clamp(min=0)], 0.0)
        returns = torch.where(live, rewards_to_go(batch, rewards.placed, gamma=1.0), 0.0)
        group = groups.index[batch.trajectory]
        here, total = group * length + place.clamp(min=0), len(groups.members) * length
        weights, left = segment_sum(weight, here, total), segment_sum(live.double(), here, total)
        baseline = segment_sum(returns * weight, here, total) / (weights + self.eps).clamp(min=1e-300)
        lone = left <= 1
        if self.tail == "zero":
            advantage = torch.where(lone[here], 0.0, returns - baseline[here])
        else:
            advantage = returns - torch.where(lone, 0.0, baseline)[here]
        low, high = (extreme(name, returns, live, group, len(groups.members)) for name in ("amin", "amax"))
        silent = ~groups.alone & ((groups.members < 2) | equal(low, high))
        advantage = torch.where(groups.alone[group], returns, torch.where(silent[group], 0.0, advantage))
        credit = groups.credit_decisions(advantage)
        credit.degenerate = silent
        return credit
