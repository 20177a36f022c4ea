"""Generalised advantage estimation over turns, for policies with a value function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.advantage import group_index, membership
from triune.algo.advantages.statistics import Estimator
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.monitor.metric import Metric, scalar


@ADVANTAGES.register("gae")
class GeneralisedAdvantage(Estimator):
    """GAE over turns, copied to every decision of a turn (Schulman et al. 2016, eq. 16; the step form of VL-DAC).

    A turn is where the policy waits for the world: an environment step with its whole action chunk, a reply, or, for
    a critic that reads a value before every token, a token. A turn in which nothing was sampled is transparent: no
    time passes in it, its value is neither bootstrapped from nor trained, and its reward counts for the choice before.
    An episode that did not terminate (truncated, or cut into fragments) bootstraps from the value read out after its
    last turn; one that did, from 0. Returns (value targets) are the raw advantages plus the values. Whitening is over
    the step's trained decisions, or over its turns, each counted once: n-1 in the std, in float64.
    """

    kind: Literal["gae"] = "gae"
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per turn")
    lam: float = Field(default=0.95, ge=0, le=1, description="decay of the mixture of n-turn estimates")
    whiten: bool = Field(default=True, description="centre and scale advantages over the step")
    whiten_over: Literal["decisions", "turns"] = Field(
        default="decisions", description="what counts once: a decision (verl), or a turn (VL-DAC)"
    )
    whiten_eps: float = Field(default=1e-8, ge=0, description="keeps the scale from 0")
    whiten_eps_in: Literal["variance", "std"] = Field(
        default="variance", description="sqrt(variance + eps) (verl), or std + eps (VL-DAC)"
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"value"})

    @property
    def batch_wide(self) -> bool:
        return self.whiten

    @property
    def keeps_equal(self) -> str:
        return "the baseline is what the critic expects, not what the group got"

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        """Raises ValueError when the family read out no value before a turn that was sampled in."""
        in_loss, in_baseline, reasons = membership(batch, rewards)
        assert views["old"].value is not None
        values = views["old"].value.double()
        raw, returns = self._estimate(batch, rewards, values)
        usable = in_loss[batch.trajectory] & batch.sampled
        places = batch.trajectory[usable], batch.turn[usable]
        trained = torch.zeros_like(raw, dtype=torch.bool)
        trained[places] = True
        if self.whiten:
            raw = self._whitened(raw, raw[trained if self.whiten_over == "turns" else places])
        return Credit(
            advantage=torch.where(usable, raw[batch.trajectory, batch.turn], 0.0).float(),
            in_loss=in_loss,
            in_baseline=in_baseline,
            reasons=reasons,
            degenerate=torch.zeros(group_index(batch)[1], dtype=torch.bool),
            returns=returns.float(),
            metrics=_explained(batch, values, returns, trained[batch.value_trajectory, batch.value_turn]),
        )

    def _whitened(self, values: Tensor, counted: Tensor) -> Tensor:
        """Centred and scaled by the moments of those that count; a single one has no scale and stays as it is."""
        if len(counted) < 2:
            return values
        variance, eps = counted.var(), self.whiten_eps
        scale = (variance + eps).sqrt() if self.whiten_eps_in == "variance" else variance.sqrt() + eps
        return (values - counted.mean()) / scale if scale > 0 else torch.zeros_like(values)

    def _estimate(self, batch: Batch, rewards: Rewards, values: Tensor) -> tuple[Tensor, Tensor]:
        """Raw advantages f64[B, turns], and the returns f64[V] at the read-outs."""
        rows = len(batch.trajectories)
        readouts = (batch.value_trajectory, batch.value_turn)
        ends = torch.zeros(rows, dtype=torch.long).scatter_reduce(0, batch.trajectory, batch.turn + 1, "amax")
        turns = 1 + int(torch.cat([ends, batch.value_turn]).max())
        reward, value = torch.zeros(2, rows, turns, dtype=torch.float64)
        chosen, read = torch.zeros(2, rows, turns, dtype=torch.bool)
        placed = rewards.placed.nan_to_num(0.0).double()
        reward.index_put_((batch.trajectory, batch.turn), placed, accumulate=True)
        value[readouts], read[readouts] = values, True
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


def _explained(batch: Batch, values: Tensor, returns: Tensor, trained: Tensor) -> list[Metric]:
    """1 - Var(R - V) / Var(R) of every source, over the read-outs `trained` bool[V] by the values before the update: 1 is
    a critic that knows every return, 0 one that knows their mean. None where all returns are equal."""
    found = []
    sources = [t.source for t in batch.trajectories]
    for source in batch.sources:
        mine = torch.tensor([name == source for name in sources])[batch.value_trajectory] & trained
        left, whole = ((x[mine] - x[mine].mean()).square().sum() for x in (returns - values, returns))
        if whole > 1e-12:
            found.append(scalar("explained_variance", float(1 - left / whole), source=source))
    return found
