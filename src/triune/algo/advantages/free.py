"""Advantages that need no group: raw rewards, the mean of the step, and moving averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, PrivateAttr

from triune.algo.advantages.statistics import Estimator, Groups, equal, spread
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.trajectory import Trajectory

Key = Literal["source", "task", "component", "group", "all"]


def key_of(trajectory: Trajectory, by: Key) -> str:
    return "" if by == "all" else str(getattr(trajectory, by))


@ADVANTAGES.register("raw")
class RawReward(Estimator):
    """The reward itself, without a baseline: REINFORCE (Williams 1992), and TOPR (arXiv 2503.14286) with `signed`.

    `signed: reward` makes it +1 above the `threshold` and -1 up to it; `signed: correct` reads the verdict's own
    `correct`, and leaves a rollout whose main check says neither at 0.
    """

    kind: Literal["raw"] = "raw"
    signed: Literal["no", "reward", "correct"] = Field(
        default="no", description="map to +1 and -1, by the reward or by what the verdict calls correct"
    )
    threshold: float = Field(default=0.5, description="of `signed: reward`: above it is +1")
    baseline: float = Field(default=0.0, description="constant that is subtracted (TOPR's c)")

    @property
    def keeps_equal(self) -> str:
        return "without a baseline an equal reward is still a reward"

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = Groups.of(batch, rewards)
        value = groups.reward
        if self.signed == "reward":
            value = torch.where(value > self.threshold, 1.0, -1.0).double()
        elif self.signed == "correct":
            value = (2 * rewards.correct.double() - 1).nan_to_num(self.baseline)
        return groups.credit_decisions((value - self.baseline)[batch.trajectory])


@ADVANTAGES.register("batch_mean")
class BatchMean(Estimator):
    """r_i - mean over the step, optionally divided by its std: REINFORCE with the simplest baseline, for one rollout per
    prompt. `by` keeps sources (or tasks, or components) apart, whose rewards have different means."""

    kind: Literal["batch_mean"] = "batch_mean"
    by: Key = Field(default="source", description="rollouts that share a mean")
    scale: Literal["std", "none"] = Field(default="none", description="what is divided by")
    ddof: Literal[0, 1] = Field(default=1, description="the std divides by n - ddof")
    eps: float = Field(default=1e-6, ge=0, description="added to the std")

    @property
    def batch_wide(self) -> bool:
        return True

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = Groups.of(batch, rewards)
        keys = [key_of(one, self.by) for one in batch.trajectories]
        advantage = torch.zeros_like(groups.reward)
        for key in dict.fromkeys(keys):
            mine = torch.tensor([k == key for k in keys])
            counted = groups.reward[mine & groups.counted]
            if len(counted) < 2 or bool(equal(counted.min(), counted.max())):
                continue
            centred = groups.reward - counted.mean()
            unit = spread(counted, self.ddof) + self.eps if self.scale == "std" else 1.0
            advantage = torch.where(mine, centred / unit, advantage)
        return groups.credit_decisions(advantage[batch.trajectory])


@ADVANTAGES.register("ema")
class MovingAverage(Estimator):
    """r_i - b, and then b <- decay b + (1 - decay) r_i, with a baseline b of its own for every source (RAE of SPIRAL,
    arXiv 2506.24119, as prime-rl computes it: every rollout is scored before it moves the baseline).

    A step's rollouts follow each other by group and rank, whatever the micro-batches. The baselines are saved in
    checkpoints; those of before a resume go on.
    """

    kind: Literal["ema"] = "ema"
    by: Key = Field(
        default="source",
        description="rollouts that share a baseline: those of a source, a task, a role (component or group)",
    )
    decay: float = Field(default=0.95, ge=0, lt=1, description="of the baseline, per rollout")
    start: float = Field(default=0.0, description="the baseline before the first rollout")
    _baselines: dict[str, float] = PrivateAttr(default_factory=dict)

    @property
    def batch_wide(self) -> bool:
        return True

    @property
    def keeps_equal(self) -> str:
        return "the baseline is that of earlier rollouts"

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = Groups.of(batch, rewards)
        rows = batch.trajectories
        baseline = torch.zeros_like(groups.reward)
        scored: dict[str, float] = {}
        order = sorted(
            range(len(rows)), key=lambda i: (rows[i].group, rows[i].rank, rows[i].step_offset, rows[i].id)
        )
        for row in order:
            key, episode = key_of(rows[row], self.by), rows[row].episode or rows[row].id
            held = self._baselines.get(key, self.start)
            # A later fragment of an episode meets the baseline that the episode met.
            baseline[row] = scored.setdefault(episode, held)
            if bool(groups.counted[row]):
                self._baselines[key] = self.decay * held + (1 - self.decay) * float(groups.reward[row])
        return groups.credit_decisions((groups.reward - baseline)[batch.trajectory])

    def state(self) -> dict[str, Any]:
        return {"baselines": dict(self._baselines)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._baselines.clear()
        self._baselines.update(state["baselines"])
