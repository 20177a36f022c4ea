"""A policy small enough to be worked out, in games small enough to be trained in seconds, by the framework's own parts.

The policy is a table of logits by (context, position); the answer to a prompt is a sequence of arms. Everything else is
what a run uses: `Learner`, objectives, advantages, adjustments, collectors and presets, found through a recipe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from triune.algo.options import ViewOptions
from triune.algo.types import Batch, Evaluated
from triune.core.recipe import Recipe
from triune.core.sample import Check, Frame, Message, Sample, Text
from triune.core.schedule import Progress
from triune.core.trajectory import Decisions, Payload, SamplingRule, Trajectory
from triune.core.verdict import Component, Outcome, Verdict
from triune.monitor.metric import Metric, Scored, merge
from triune.policy.logprob import rule_logprobs
from triune.rollout.conversation import Segment
from triune.rollout.generator import Demand, Episode
from triune.rollout.placed import answer
from triune.testing.table import recipe
from triune.train.learner import Learner

Reward = Callable[[int, Sequence[int]], float]
"""What an answer (its arms) to a context is worth."""

RULE = SamplingRule()
"""Answers are drawn from the whole distribution, at temperature 1."""

FLOOR = 1e6
"""AdamW's `eps` in the games. It dwarfs every gradient, so that a step is the rate times the gradient, as in SGD: in a
table, Adam's scale per parameter would make the smallest weight on a lone context as strong as the largest."""


class Table(nn.Module):
    """Logits f32[contexts, positions, arms]; `features` f32[arms, F] ties arms: logits = weight @ features.T."""

    def __init__(self, start: Tensor, features: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.detach().clone().float())
        self.features = features

    def forward(self) -> Tensor:
        return self.weight if self.features is None else self.weight @ self.features.T


@dataclass(frozen=True)
class Game:
    """What is played: the policy's first weights f32[contexts, positions, arms or features], what answers are worth, and,
    where a toy has them, a demonstration for each context (None: it has none), a teacher's logits, tied features, the arm
    that ends an answer, and the group that each context's rollouts belong to."""

    start: Tensor
    reward: Reward
    experts: Sequence[Sequence[int] | None] = ()
    teacher: Tensor | None = None
    features: Tensor | None = None
    stop: int | None = None
    groups: Sequence[str] = ()

    def samples(self, copies: int = 1) -> list[Sample]:
        """One per context, or several: each is a prompt, and a group, of its own."""
        message = Message(role="user", content=(Text(text="?"),))
        experts = [*self.experts, *[None] * (len(self.start) - len(self.experts))]
        return [
            Sample(
                id=f"context-{context}-{copy}",
                source="game",
                task="game",
                messages=(message,),
                checks=(Check(verifier="game"),),
                expert=None if expert is None else " ".join(map(str, expert)),
                meta={"context": context, "group": f"{self.groups[context]}-{copy}" if self.groups else ""},
            )
            for copy in range(copies)
            for context, expert in enumerate(experts)
        ]


@dataclass(slots=True)
class Places:
    """A batch's payload: context, position and arm of every decision, i64[N] each."""

    context: Tensor
    position: Tensor
    arm: Tensor


@dataclass
class Anchor:
    """A view: a table that stays as it is."""

    family: Bandit
    table: Table
    nbytes: int = 0

    def begin(self, seed: int, progress: Progress) -> None: ...

    def end(self, progress: Progress) -> None: ...

    def keep(self) -> None: ...

    def evaluate(self, batch: Batch, want: frozenset[str]) -> Evaluated:
        return self.family.score(self.table, batch, want)

    def metrics(self, batches: Sequence[Batch]) -> list[Metric]:
        return []

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Bandit:
    """The family: log p(arm | context, position). A sequence longer than the table stays at its last position."""

    provides = frozenset({"entropy", "distribution"})
    views = frozenset({"frozen"})

    def __init__(self, game: Game) -> None:
        self.game = game
        self.table = Table(game.start, game.features)
        self.arms = self.table().shape[-1]
        self.anchors: dict[str, Anchor] = {}

    def modules(self) -> Mapping[str, nn.Module]:
        return {"table": self.table}

    def declare(self, name: str, view: ViewOptions) -> Anchor:
        """The teacher where it is called so, else the policy as it was when first asked for."""
        if name not in self.anchors:
            start = self.game.teacher if name == "teacher" else self.table.weight
            assert start is not None, "this game has no teacher"
            table = Table(start, None if name == "teacher" else self.game.features)
            self.anchors[name] = Anchor(self, table)
        return self.anchors[name]

    def check(self, sample: Sample) -> None:
        return

    def begin_step(self, samples: Sequence[Sample]) -> None:
        return

    def cost(self, trajectory: Trajectory) -> int:
        return len(trajectory.decisions)

    def vision_cost(self, trajectory: Trajectory) -> int:
        return 0

    # What a conversation needs of it: a prompt is one id beyond the arms, an answer's words are its arms.

    frame: Frame = "pixels_original"
    window = 1 << 20
    stop_ids: tuple[int, ...] = ()

    def prompt(self, sample: Sample) -> Segment:
        ids = np.asarray([self.arms + int(str(sample.meta["context"]))], np.int32)
        return Segment(ids, np.zeros(1, np.bool_), (), ())

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def pack(self, trajectories: Sequence[Trajectory]) -> Batch:
        arrays = [t.payload.arrays for t in trajectories]
        at = [torch.from_numpy(one["at"].copy()).long() for one in arrays]
        context = [
            len(places) * [int(one["ids"][0]) - self.arms] for one, places in zip(arrays, at, strict=True)
        ]
        arms = [one["ids"][one["at"]] for one in arrays]
        places = Places(
            context=torch.tensor([c for many in context for c in many], dtype=torch.long),
            position=(torch.cat(at) - 1).clamp(max=self.table.weight.shape[1] - 1),
            arm=torch.from_numpy(np.concatenate(arms)).long(),
        )
        return Batch.of(trajectories, places)

    def evaluate(
        self, batch: Batch, *, want: frozenset[str] = frozenset(), view: str = "current"
    ) -> Evaluated:
        return (
            self.score(self.table, batch, want)
            if view == "current"
            else self.anchors[view].evaluate(batch, want)
        )

    def score(self, table: Table, batch: Batch, want: frozenset[str]) -> Evaluated:
        """What a table says of the batch."""
        at = batch.payload
        logp = rule_logprobs(table()[at.context, at.position], batch.trajectories[0].rules[0][1])
        return Evaluated(
            logp.gather(1, at.arm[:, None])[:, 0],
            entropy=torch.special.entr(logp.exp()).sum(-1) if "entropy" in want else None,
            extras={"distribution": logp} if "distribution" in want else {},
        )

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """What the policy does now, f64[contexts, positions, arms]."""
        return self.table().double().softmax(-1)

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        torch.save(self.table.state_dict(), path / "table.pt")

    def load(self, path: Path) -> None:
        self.table.load_state_dict(torch.load(path / "table.pt", weights_only=True))


@cache
def _payload(prompt: int, arms: tuple[int, ...]) -> Payload:
    ids = np.asarray([prompt, *arms], np.int32)
    return Payload(family="language", arrays={"ids": ids, "at": np.arange(1, len(ids), dtype=np.int32)})


def rollout(
    family: Bandit,
    sample: Sample,
    arms: Sequence[int],
    logp: Sequence[float],
    *,
    rank: int = 0,
    forced: int = 0,
    version: int = 0,
    rule: SamplingRule = RULE,
    **fields: Any,
) -> Episode:
    """An answer to a sample; its first `forced` arms were placed.

    Made without pydantic's checks: a game plays a hundred thousand.
    """
    size = len(arms)
    id = fields.pop("id", f"{sample.id}#{version}-{rank}")
    values = np.asarray(logp, np.float32)
    placed = np.arange(size) < forced
    values[placed] = np.nan
    columns = {
        "logp": values,
        "version": np.full(size, version, np.int32),
        "turn": np.zeros(size, np.int32),
        "time": np.arange(size, dtype=np.int32),
        "forced": placed,
    }
    whole = {
        "id": id,
        "episode": id,
        "sample": sample.id,
        "source": sample.source,
        "task": sample.task,
        "group": str(sample.meta["group"]) or sample.id,
        "rank": rank,
        "rules": ((0, rule),),
        "decisions": NOTHING.decisions.model_copy(update=columns),
        "payload": _payload(int(family.prompt(sample).ids[0]), tuple(arms)),
        **fields,
    }
    said = {"id": id, "text": family.decode(arms), "num_tokens": size - forced, "rank": rank}
    return Episode(sample, NOTHING.model_copy(update=whole), SILENCE.model_copy(update=said))


NOTHING = Trajectory(
    id="", sample="", source="", task="", group="", decisions=Decisions.of([]), payload=_payload(0, ())
)
SILENCE = Outcome(id="")
"""What rollouts are copied from."""


class Sampler:
    """The generator. `lag`: it plays weights that are so many versions old; `error` f32[C, T, A]: what its arithmetic adds
    to the learner's logits. Either makes it inexact, as an engine in another process or precision is."""

    def __init__(
        self, family: Bandit, seed: int, *, length: int = 1, lag: int = 0, error: Tensor | None = None
    ):
        self.family, self.length, self.error = family, length, error
        self.exact = not lag and error is None
        self.generator = torch.Generator().manual_seed(seed)
        self.kept = deque([self.logits()], maxlen=lag + 1)

    @torch.no_grad()
    def logits(self) -> Tensor:
        now = self.family.table().detach().clone()
        return now if self.error is None else now + self.error

    def load(self, version: int) -> None:
        self.kept.append(self.logits())

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        logits = self.kept[0]
        contexts = torch.tensor([s.meta["context"] for s in samples]).repeat_interleave(demand.rollouts)
        places = torch.arange(self.length).clamp(max=logits.shape[1] - 1)
        logp = rule_logprobs(logits[contexts][:, places].flatten(0, 1), demand.rule)
        drawn = torch.multinomial(logp.exp(), 1, generator=self.generator)[:, 0]
        arms = logp.argmax(-1) if demand.rule.greedy else drawn
        said = arms.view(len(contexts), -1).tolist()
        scored = logp.gather(1, arms[:, None]).view(len(contexts), -1).tolist()
        rows = iter(zip(said, scored, strict=True))
        return [
            [self._answer(sample, rank, *next(rows), demand) for rank in range(demand.rollouts)]
            for sample in samples
        ]

    def _answer(
        self, sample: Sample, rank: int, arms: list[int], logp: list[float], demand: Demand
    ) -> Episode:
        """The rollout, with what it was made to begin with in the place of what was drawn."""
        start = demand.starts.get((sample.id, rank))
        begun = [] if start is None else start.cut(answer(self.family, sample, start.text))
        said, version, stop = [*begun, *arms[len(begun) :]], demand.version, self.family.game.stop
        size = said.index(stop) + 1 if stop in said else len(said)
        return rollout(
            self.family,
            sample,
            said[:size],
            logp[:size],
            rank=rank,
            forced=len(begun),
            version=version,
            rule=demand.rule,
        )


def played(episode: Episode) -> tuple[int, list[int]]:
    """Context and arms of an answer."""
    return int(str(episode.sample.meta["context"])), [int(word) for word in episode.outcome.text.split()]


def judged(episode: Episode, value: float) -> Scored:
    """The episode with its reward; 1 and more is correct."""
    verdict = Verdict(
        id=episode.outcome.id, reward=value, components=(_component(value),), correct=value >= 1
    )
    return Scored(episode.sample, episode.trajectory, episode.outcome, verdict)


@lru_cache(maxsize=1024)
def _component(value: float) -> Component:
    return Component(name="game", value=value, weight=1.0, correct=value >= 1, main=True)


Judge = Callable[["Match", Sequence[Episode]], Sequence[float]]
"""Rewards of the rollouts of one prompt, where an answer's worth is not a matter of its own."""


class Match:
    """One training: a game, an `algo` section, a seed. Steps play all contexts, or learn from `offline` rows alone."""

    def __init__(
        self,
        game: Game,
        algo: Mapping[str, Any],
        *,
        seed: int,
        rate: float,
        steps: int,
        rollouts: int = 8,
        minibatches: int = 1,
        length: int = 1,
        lag: int = 0,
        error: Tensor | None = None,
        copies: int = 1,
        offline: Sequence[Scored] = (),
        rule: SamplingRule = RULE,
        judge: Judge | None = None,
    ) -> None:
        self.judge: Judge = judge or (lambda match, row: [game.reward(*played(e)) for e in row])
        self.game, self.samples, self.offline = game, game.samples(copies), offline
        self.recipe: Recipe = recipe(
            algo=algo,
            total_steps=steps,
            prompts_per_step=-(-len(self.samples) // minibatches) * minibatches,
            rollouts_per_prompt=rollouts,
            minibatches_per_step=minibatches,
            optimizer={
                "lr": rate * FLOOR,
                "warmup_fraction": 0.0,
                "betas": [0.0, 0.999],
                "weight_decay": 0.0,
                "clip_norm": 1e9,
            },
        )
        self.family = Bandit(game)
        self.sampler = Sampler(self.family, seed, length=length, lag=lag, error=error)
        self.learner = Learner(self.family, self.recipe, self.sampler.exact and not offline)
        for group in self.learner.optimizer.adamw.param_groups:
            group["eps"] = FLOOR
        self.rule, self.done = rule, 0
        self.curves: dict[str, list[float]] = {}

    def fresh(self, progress: Progress) -> list[Scored]:
        """Judged rollouts of every prompt, and what the collectors place beside them."""
        demand = Demand(self.recipe.train.rollouts_per_prompt, self.rule, 0, self.done, progress)
        demand = self.learner.demand(demand, self.samples)
        rows = self.sampler.generate(self.samples, demand) + self.learner.place(self.samples, demand)
        return [
            judged(episode, value)
            for row in rows
            for episode, value in zip(row, self.judge(self, row), strict=True)
        ]

    def step(self) -> list[Scored]:
        """The loop's step: rollouts, judgement, update, weights to the engine."""
        progress = Progress(step=self.done + 1, total_steps=self.recipe.train.total_steps)
        report = self.learner.step(lambda: self.offline or self.fresh(progress), self.recipe, progress)
        self.done += 1
        self.sampler.load(self.done)
        for metric in merge(report.metrics, by=()):
            self.curves.setdefault(metric.name, []).append(metric.mean)
        return report.scored

    def run(self) -> Match:
        for _ in range(self.recipe.train.total_steps - self.done):
            self.step()
        return self

    @property
    def probabilities(self) -> Tensor:
        return self.family.probabilities()
