"""A toy agent: an actor-critic with action chunks in a vectorised grid world, trained by PPO with GAE.

It shows that control needs nothing of the core that a language model does not: an environment step is a turn, each of
the K actions of its chunk is a decision, the critic is read before every turn, and rewards are events of the episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from triune.algo.options import ViewOptions
from triune.algo.types import Batch, Evaluated
from triune.core.base import Frozen
from triune.core.errors import DataError
from triune.core.sample import Check, EnvSpec, Message, Sample, Text
from triune.core.trajectory import Decisions, Payload, SamplingRule, Trajectory
from triune.core.verdict import Outcome, RewardEvent
from triune.policy.logprob import rule_logprobs
from triune.policy.options import POLICIES
from triune.policy.views import View, undeclared
from triune.rollout.engine import derive_seed, uniforms
from triune.rollout.generator import Demand, Episode
from triune.rollout.options import ROLLOUTS

MOVES = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
"""What an action adds to a position (column, row)."""


@POLICIES.register("actor")
class ActorOptions(Frozen):
    kind: Literal["actor"] = "actor"
    chunk: int = Field(2, ge=1, description="K: actions chosen at once, from one observation")
    width: int = Field(32, ge=1, description="units of a hidden layer")
    path: str = Field("", description="directory written by a checkpoint; none: random weights")

    def build(self) -> ActorFamily:
        family = ActorFamily(self)
        if self.path:
            family.load(Path(self.path))
        return family


@ROLLOUTS.register("grid")
class GridRollouts(Frozen):
    kind: Literal["grid"] = "grid"
    temperature: float = Field(
        1.0, ge=0, description="of the action probabilities; 0: the most likely action"
    )
    time_limit: int = Field(6, ge=1, description="environment steps after which an episode is truncated")

    def build(self, family: ActorFamily) -> GridRunner:
        return GridRunner(family, self)


class Grid:
    """n agents in n square worlds at once: walk to the goal. An agent that has arrived stays there.

    `position`, `goal` i64[n, 2]; `size` i64[n, 1]; `arrived` bool[n].
    """

    def __init__(self, start: NDArray[np.int64], goal: NDArray[np.int64], size: NDArray[np.int64]) -> None:
        self.position, self.goal, self.size = start, goal, size
        self.arrived: NDArray[np.bool_] = (start == goal).all(1)

    def observe(self) -> NDArray[np.float32]:
        """f32[n, 4]: where the agent is and where the goal lies from there, in units of the world's size."""
        seen = np.concatenate([self.position, self.goal - self.position], 1) / self.size
        return seen.astype(np.float32)

    def step(self, chunk: NDArray[np.int64]) -> None:
        """Executes chunks i64[n, K] of actions, one after the other; walls stop, a goal ends the chunk."""
        for action in chunk.T:
            there = np.clip(self.position + MOVES[action], 0, self.size - 1)
            self.position = np.where(self.arrived[:, None], self.position, there)
            self.arrived = (self.position == self.goal).all(1)


class ActorFamily:
    """Payload of an episode of T turns: `observations` f32[T + 1, 4], the last one included, `actions` i32[T * K]."""

    provides = frozenset({"value", "entropy"})
    views: frozenset[str] = frozenset()

    def __init__(self, options: ActorOptions) -> None:
        self.options, width = options, options.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.actor = nn.Sequential(
                nn.Linear(4, width), nn.Tanh(), nn.Linear(width, options.chunk * len(MOVES))
            )
            self.critic = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def declare(self, name: str, view: ViewOptions) -> View:
        raise undeclared(name)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"actor": self.actor, "critic": self.critic}

    def check(self, sample: Sample) -> None:
        world(sample)

    def begin_step(self, samples: Sequence[Sample]) -> None:
        return

    def cost(self, trajectory: Trajectory) -> int:
        return len(trajectory.decisions)

    def vision_cost(self, trajectory: Trajectory) -> int:
        return 0

    def logprobs(self, observation: Tensor, rule: SamplingRule) -> Tensor:
        """f32[n, K, actions] of every action of the chunk."""
        logits = self.actor(observation).unflatten(1, (self.options.chunk, len(MOVES)))
        return rule_logprobs(logits, rule)

    def pack(self, trajectories: Sequence[Trajectory]) -> Batch:
        rules = trajectories[0].rules
        assert all(one.rules == rules for one in trajectories), (
            "a step of the vector environment has one rule"
        )
        seen: list[Tensor] = []
        actions: list[Tensor] = []
        read: list[Tensor] = []
        for one in trajectories:
            observations = torch.from_numpy(one.payload.arrays["observations"].copy())
            seen.append(observations[:-1])
            actions.append(torch.from_numpy(one.payload.arrays["actions"].astype(np.int64)))
            # The last observation is read only where the episode was cut there: the bootstrap.
            read.append(observations[:-1] if one.terminated else observations)
        turns = [torch.arange(len(part)) for part in read]
        return Batch.of(
            trajectories,
            (torch.cat(seen), torch.cat(actions), torch.cat(read), rules[0][1]),
            value_trajectory=torch.cat([torch.full_like(turn, row) for row, turn in enumerate(turns)]),
            value_turn=torch.cat(turns),
        )

    def evaluate(
        self, batch: Batch, *, want: frozenset[str] = frozenset(), view: str = "current"
    ) -> Evaluated:
        observations, actions, read, rule = batch.payload
        logp = self.logprobs(observations, rule).flatten(0, 1)
        return Evaluated(
            logp=logp.gather(1, actions[:, None])[:, 0],
            entropy=torch.special.entr(logp.exp()).sum(1) if "entropy" in want else None,
            value=self.critic(read)[:, 0] if "value" in want else None,
        )

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        torch.save({name: module.state_dict() for name, module in self.modules().items()}, path / "actor.pt")

    def load(self, path: Path) -> None:
        state = torch.load(path / "actor.pt", weights_only=True)
        for name, module in self.modules().items():
            module.load_state_dict(state[name])


def world(sample: Sample) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Start, goal and size of a sample's world. Raises DataError naming the sample when it has none."""
    params = sample.env.params if sample.env is not None and sample.env.name == "grid" else {}
    try:
        start, goal = (np.asarray(params[name], np.int64).reshape(2) for name in ("start", "goal"))
        size = np.asarray(params["size"], np.int64).reshape(1)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"sample {sample.id!r}: env must be a grid with start, goal and size ({error})"
        ) from error
    if (start == goal).all() or not ((np.stack([start, goal]) >= 0) & (np.stack([start, goal]) < size)).all():
        raise DataError(f"sample {sample.id!r}: start and goal must be two places inside the grid")
    return start, goal, size


class GridRunner:
    """Runs every episode of a step in one vector environment."""

    exact = True

    def __init__(self, family: ActorFamily, options: GridRollouts) -> None:
        self.family, self.options = family, options

    def load(self, version: int) -> None:
        return

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        keys = [(sample, rank) for sample in samples for rank in range(demand.rollouts)]
        seeds = [derive_seed(demand.seed, demand.version, sample.id, rank) for sample, rank in keys]
        grid = Grid(*(np.stack(part) for part in zip(*(world(sample) for sample, _ in keys), strict=True)))
        seen, chunks, logps, arrived = [grid.observe()], [], [], []
        for turn in range(self.options.time_limit):
            logp = self.family.logprobs(torch.from_numpy(seen[-1]), demand.rule)
            chunks.append(draw(logp, seeds, turn, demand.rule))
            logps.append(logp.gather(2, torch.from_numpy(chunks[-1])[..., None])[..., 0].numpy())
            grid.step(chunks[-1])
            seen.append(grid.observe())
            arrived.append(grid.arrived)
        path, actions, behaviour = np.stack(seen, 1), np.stack(chunks, 1), np.stack(logps, 1)
        episodes = []
        for n, (sample, rank) in enumerate(keys):
            there = np.flatnonzero(np.stack(arrived)[:, n]).tolist()
            turns = there[0] + 1 if there else self.options.time_limit
            places = np.repeat(np.arange(turns), self.family.options.chunk)
            events = rewards(turns, self.family.options.chunk, bool(there))
            trajectory = Trajectory(
                id=f"{sample.id}#{rank}",
                sample=sample.id,
                source=sample.source,
                task=sample.task,
                group=sample.id,
                rank=rank,
                ending="stop_env" if there else "max_turns",
                terminated=bool(there),
                truncated=not there,
                rules=((0, demand.rule),),
                decisions=Decisions(
                    logp=behaviour[n, :turns].ravel(),
                    version=np.full(len(places), demand.version),
                    turn=places,
                    time=places,
                    forced=np.zeros(len(places), bool),
                ),
                payload=Payload(
                    family="actor",
                    arrays={
                        "observations": path[n, : turns + 1],
                        "actions": actions[n, :turns].ravel().astype(np.int32),
                    },
                ),
                events=events,
                seed=seeds[n],
            )
            outcome = Outcome(
                id=trajectory.id,
                ending=trajectory.ending,
                truncated=trajectory.truncated,
                num_tokens=len(places),
                num_turns=turns,
                events=events,
                rank=rank,
            )
            episodes.append(Episode(sample, trajectory, outcome))
        return [episodes[i : i + demand.rollouts] for i in range(0, len(episodes), demand.rollouts)]


def rewards(turns: int, chunk: int, arrived: bool) -> tuple[RewardEvent, ...]:
    """-1 `time` for every environment step and 1 `goal` for the one that arrives, at the last action of its chunk."""
    ends = [chunk * (turn + 1) - 1 for turn in range(turns)]
    goal = (RewardEvent(decision=ends[-1], name="goal", value=1.0),) if arrived else ()
    return (*(RewardEvent(decision=end, name="time", value=-1.0) for end in ends), *goal)


def draw(logp: Tensor, seeds: Sequence[int], turn: int, rule: SamplingRule) -> NDArray[np.int64]:
    """Action chunks i64[n, K] from log-probs [n, K, actions]: the most likely ones, or by inversion."""
    if rule.greedy:
        return logp.argmax(-1).numpy()
    count = logp.shape[1]
    drawn = [uniforms(np.asarray(seeds, np.uint64), turn * count + k) for k in range(count)]
    cumulative = logp.double().exp().cumsum(-1)
    target = torch.from_numpy(np.stack(drawn, 1))[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True)[..., 0].clamp(max=logp.shape[-1] - 1).numpy()


def grid_samples(count: int = 8, size: int = 5, seed: int = 0) -> list[Sample]:
    """Worlds with random starts and goals; arriving pays 1, every environment step costs 0.1."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        start, goal = np.unravel_index(rng.choice(size * size, 2, replace=False), (size, size))
        params = {"start": start.tolist(), "goal": goal.tolist(), "size": size}
        samples.append(
            Sample(
                id=f"grid/{number}",
                source="grid",
                task="navigation",
                messages=(Message(role="user", content=(Text(text="walk to the goal"),)),),
                env=EnvSpec(name="grid", params=params),
                checks=(Check(verifier="env/goal"), Check(verifier="env/time", weight=0.1)),
            )
        )
    return samples
