"""Generalised advantage estimation over turns, for policies with a value function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantage import group_index, membership
from triune.algo.options import ADVANTAGES, Options
from triune.algo.types import Batch, Credit, Evaluated, Rewards


@ADVANTAGES.register("gae")
class GeneralisedAdvantage(Options):
    """GAE over turns, copied to every decision of a turn (Schulman et al. 2016, eq. 16; the step form of VL-DAC).

    A turn is where the policy waits for the world: an environment step with its whole action chunk, a reply, or, for
    a family that reads a value before every token, a token. A turn in which nothing was sampled is transparent: no
    time passes in it, its value is neither bootstrapped from nor trained, and its reward counts for the choice before.
    An episode that did not terminate (truncated, or cut into fragments) bootstraps from the value read out after its
    last turn; one that did, from 0. Returns (value targets) are the raw advantages plus the values. Whitening is over
    the step's trained decisions, (x - mean) / (std + 1e-8), n-1 in the std.
    """

    kind: Literal["gae"] = "gae"
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per turn")
    lam: float = Field(default=0.95, ge=0, le=1, description="decay of the mixture of n-turn estimates")
    whiten: bool = Field(default=True, description="centre and scale advantages over the step")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"value"})

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        """Raises ValueError when the family read out no value before a turn that was sampled in."""
        in_loss, in_baseline, reasons = membership(batch, rewards)
        raw, returns = self._estimate(batch, rewards, views["old"])
        advantage = raw[batch.trajectory, batch.turn]
        usable = in_loss[batch.trajectory] & batch.sampled
        if self.whiten and int(usable.sum()) > 1:
            advantage = (advantage - advantage[usable].mean()) / (advantage[usable].std() + 1e-8)
        return Credit(
            advantage=torch.where(usable, advantage, 0.0).float(),
            in_loss=in_loss,
            in_baseline=in_baseline,
            reasons=reasons,
            degenerate=torch.zeros(group_index(batch)[1], dtype=torch.bool),
            returns=returns.float(),
        )

    def _estimate(self, batch: Batch, rewards: Rewards, old: Evaluated) -> tuple[Tensor, Tensor]:
        """Raw advantages f64[B, turns], and the returns f64[V] at the read-outs."""
        assert old.value is not None
        rows = len(batch.trajectories)
        readouts = (batch.value_trajectory, batch.value_turn)
        ends = torch.zeros(rows, dtype=torch.long).scatter_reduce(0, batch.trajectory, batch.turn + 1, "amax")
        turns = 1 + int(torch.cat([ends, batch.value_turn]).max())
        reward, value = torch.zeros(2, rows, turns, dtype=torch.float64)
        chosen, read = torch.zeros(2, rows, turns, dtype=torch.bool)
        placed = rewards.placed.nan_to_num(0.0).double()
        reward.index_put_((batch.trajectory, batch.turn), placed, accumulate=True)
        value[readouts], read[readouts] = old.value.double(), True
        chosen[batch.trajectory[batch.sampled], batch.turn[batch.sampled]] = True
        blind = (chosen & ~read).any(1).nonzero()[:, 0].tolist()
        if blind:
            name = batch.trajectories[blind[0]].id
            raise ValueError(f"trajectory {name!r} has a turn before which no value was read")
        goes_on = torch.tensor([not t.terminated for t in batch.trajectories])
        # Past the end the value is the bootstrap of an episode that was cut, and 0 for one that is over.
        later = torch.where(goes_on, value[torch.arange(rows), ends], 0.0)
        advantage = torch.zeros_like(value)
        running, carried = torch.zeros(2, rows, dtype=torch.float64)
        for turn in reversed(range(turns)):
            here = chosen[:, turn]
            carried = carried + reward[:, turn]
            delta = carried + self.gamma * later - value[:, turn]
            running = torch.where(here, delta + self.gamma * self.lam * running, running)
            later = torch.where(here, value[:, turn], later)
            carried = torch.where(here, 0.0, carried)
            advantage[:, turn] = running
        return advantage, (advantage + value)[readouts]
