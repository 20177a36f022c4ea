"""The token conversation: one growing list of ids per episode. What the engine sampled is what is trained.

Token in, token out: nothing that was decoded is ever encoded again; text is a view for parsing and judging. Every id
is recorded with where it came from when it is appended, so a loss mask is a fact, not a search for patterns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from triune.core.errors import TriuneError
from triune.core.registry import Registry
from triune.core.sample import Media, Sample
from triune.core.trajectory import Decisions, Payload, SamplingRule, Trajectory
from triune.core.verdict import Call, Ending, Outcome, RewardEvent, Seen
from triune.rollout.engine import Completion, Engine, Request, derive_seed
from triune.rollout.generator import Demand, Episode

PROMPT, MODEL, FORCED, TOOL_TEXT, TOOL_IMAGE = range(5)
"""Origins of a token: the prompt, sampled by the policy, placed by the harness, an observation's text or picture."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What an environment shows after a turn: text and pictures in order (str or Media)."""

    blocks: tuple[str | Media, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """An environment's answer to one turn. `events` are (name, value) rewards for it; without observation it is over."""

    observation: Observation | None = None
    events: tuple[tuple[str, float], ...] = ()
    calls: tuple[Call, ...] = ()
    ending: Ending = "answered"
    forced: str = ""


class Environment(Protocol):
    """One episode's world. `step` sees the text of the turn; `close` is always called, also after a failure."""

    def reset(self, sample: Sample, seed: int) -> None: ...

    def step(self, text: str) -> Turn: ...

    def close(self) -> None: ...


ENVIRONMENTS: Registry[type[Environment]] = Registry("environment", "triune.rollout")


class Renderer(Protocol):
    """What the conversation needs of a language family: prompts and observations as ids, ids as text."""

    frame: str
    window: int
    stop_ids: tuple[int, ...]

    def prompt(self, sample: Sample) -> tuple[np.ndarray, tuple[Seen, ...]]: ...

    def observation(self, observation: Observation, closed: bool) -> tuple[list[int], list[int], tuple[Seen, ...]]: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(slots=True)
class Conversation:
    """One episode under construction; every append is atomic and checked against the window first."""

    sample: Sample
    prompt_ids: np.ndarray
    seen: tuple[Seen, ...]
    window: int
    ids: list[int] = field(default_factory=list)
    origin: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    events: list[RewardEvent] = field(default_factory=list)
    turn: int = 0
    ending: Ending = "answered"
    finished: bool = False

    def __post_init__(self) -> None:
        self.ids = [int(i) for i in self.prompt_ids]
        self.origin = [PROMPT] * len(self.ids)

    def append_sampled(self, completion: Completion, version: int) -> None:
        """The engine's ids, exactly as sampled."""
        for token, logp in zip(completion.ids, completion.logps, strict=True):
            self._decision(token, logp, MODEL, False, version)

    def append_forced(self, ids: Sequence[int], version: int) -> None:
        """Tokens that the harness places inside a turn: decisions that nobody sampled, never trained by RL."""
        for token in ids:
            self._decision(token, float("nan"), FORCED, True, version)

    def append_observation(self, ids: Sequence[int], origin: Sequence[int], seen: tuple[Seen, ...]) -> bool:
        """Adds text ids, placeholders and pictures together, or nothing at all when they would not leave room for
        at least one more sampled token; the caller then ends the episode."""
        if len(self.ids) + len(ids) + 1 > self.window:
            return False
        self.ids.extend(ids)
        self.origin.extend(origin)
        self.seen = (*self.seen, *seen)
        return True

    def _decision(self, token: int, logp: float, origin: int, forced: bool, version: int) -> None:
        self.at.append(len(self.ids))
        self.ids.append(token)
        self.origin.append(origin)
        self.logps.append(logp)
        self.forced.append(forced)
        self.turns.append(self.turn)
        self.versions.append(version)

    def finish(self, ending: Ending) -> None:
        self.ending, self.finished = ending, True

    def episode(self, rank: int, rule: SamplingRule, seed: int, renderer: Renderer) -> Episode:
        """Seals the episode. A trailing observation that no turn followed is cut: nothing depends on it."""
        end = self.at[-1] + 1 if self.at else len(self.ids)
        truncated = self.ending in ("overlong_turn", "overlong_total", "max_turns", "max_images")
        name = f"{self.sample.id}#{rank}"
        pictures = sum(1 for i in range(1, end) if self.origin[i] == TOOL_IMAGE and self.origin[i - 1] != TOOL_IMAGE)
        seen = self.seen[: len(self.sample.media) + pictures] if end < len(self.ids) else self.seen
        trajectory = Trajectory(
            id=name,
            sample=self.sample.id,
            source=self.sample.source,
            task=self.sample.task,
            group=self.sample.id,
            rank=rank,
            episode=name,
            ending=self.ending,
            terminated=not truncated,
            truncated=truncated,
            rules=((0, rule),),
            decisions=Decisions.of(
                self.logps, version=self.versions, turn=self.turns, time=list(range(len(self.at))), forced=self.forced
            ),
            payload=Payload(
                family="language",
                arrays={
                    "ids": np.asarray(self.ids[:end], np.int32),
                    "origin": np.asarray(self.origin[:end], np.int8),
                    "at": np.asarray(self.at, np.int32),
                },
                media=tuple(s.sha256 for s in seen),
            ),
            events=tuple(self.events),
            seed=seed,
        )
        sampled = [self.ids[i] for i in self.at]
        while sampled and sampled[-1] in renderer.stop_ids:
            sampled.pop()
        outcome = Outcome(
            id=name,
            text=renderer.decode(sampled),
            calls=tuple(self.calls),
            media=seen,
            frame=renderer.frame,  # type: ignore[arg-type]
            ending=self.ending,
            truncated=truncated,
            num_tokens=sum(not f for f in self.forced),
            num_turns=self.turn + 1,
            events=tuple(self.events),
            rank=rank,
        )
        return Episode(self.sample, trajectory, outcome)


class Conversations:
    """The generator of language families: runs every episode of a step, turn by turn, until all have ended."""

    def __init__(
        self, renderer: Renderer, engine: Engine, *, max_tokens: int, max_turns: int = 1, max_images: int = 16
    ) -> None:
        self.renderer, self.engine = renderer, engine
        self.max_tokens, self.max_turns, self.max_images = max_tokens, max_turns, max_images

    @property
    def exact(self) -> bool:
        return self.engine.exact

    def load(self, version: int) -> None:
        self.engine.load(version)

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        # What is recorded, and later replayed, is the rule that is really sampled by.
        demand = replace(demand, rule=self.engine.effective(demand.rule))
        seeds = [
            [derive_seed(demand.seed, demand.version, s.id, rank) for rank in range(demand.rollouts)] for s in samples
        ]
        prompts = [self.renderer.prompt(sample) for sample in samples]
        talks = [
            [Conversation(sample, ids, seen, self.renderer.window) for _ in range(demand.rollouts)]
            for sample, (ids, seen) in zip(samples, prompts, strict=True)
        ]
        worlds: dict[tuple[int, int], Environment] = {}
        try:
            self._first_turn(talks, seeds, worlds, demand)
            for turn in range(1, self.max_turns):
                if not self._next_turn(talks, seeds, worlds, demand, turn):
                    break
        finally:
            for world in worlds.values():
                world.close()
        rule = demand.rule
        return [
            [talk.episode(rank, rule, seeds[i][rank], self.renderer) for rank, talk in enumerate(row)]
            for i, row in enumerate(talks)
        ]

    def _first_turn(
        self,
        talks: list[list[Conversation]],
        seeds: list[list[int]],
        worlds: dict[tuple[int, int], Environment],
        demand: Demand,
    ) -> None:
        requests = [
            self._request(row[0], tuple(seeds[i])) for i, row in enumerate(talks)
        ]  # one prompt, G seeds: computed once
        for i, done in enumerate(self.engine.complete(requests, demand.rule)):
            for rank, completion in enumerate(done):
                talk = talks[i][rank]
                if talk.sample.env is not None:
                    # One seed for the whole group: the world is the same for all of its rollouts.
                    worlds[i, rank] = world = ENVIRONMENTS[talk.sample.env.name]()
                    world.reset(talk.sample, derive_seed(demand.seed, talk.sample.id))
                self._take_turn(talk, completion, worlds.get((i, rank)), demand)

    def _next_turn(
        self,
        talks: list[list[Conversation]],
        seeds: list[list[int]],
        worlds: Mapping[tuple[int, int], Environment],
        demand: Demand,
        turn: int,
    ) -> bool:
        live = [(i, r) for i, row in enumerate(talks) for r, talk in enumerate(row) if not talk.finished]
        requests = [self._request(talks[i][r], (derive_seed(seeds[i][r], turn),)) for i, r in live]
        for (i, r), (completion,) in zip(live, self.engine.complete(requests, demand.rule), strict=True):
            talks[i][r].turn = turn
            self._take_turn(talks[i][r], completion, worlds.get((i, r)), demand)
        return bool(live)

    def _request(self, talk: Conversation, seeds: tuple[int, ...]) -> Request:
        room = min(self.max_tokens, talk.window - len(talk.ids))
        media = tuple(s.sha256 for s in talk.seen)
        return Request(np.asarray(talk.ids, np.int32), media, seeds, room, talk.sample.id)

    def _take_turn(
        self, talk: Conversation, completion: Completion, world: Environment | None, demand: Demand
    ) -> None:
        talk.append_sampled(completion, demand.version)
        if not completion.stopped:
            return talk.finish("overlong_turn" if len(talk.ids) < talk.window else "overlong_total")
        if world is None:
            return talk.finish("answered")
        text = self.renderer.decode([t for t in completion.ids if t not in self.renderer.stop_ids])
        try:
            turn = world.step(text)
        except TriuneError:
            raise
        except Exception as error:  # a broken world is not the policy's fault: abstain, count, go on
            talk.calls.append(Call(turn=talk.turn, name="environment", ok=False, error=str(error)[:500]))
            return talk.finish("env_error")
        talk.calls.extend(turn.calls)
        last = len(talk.at) - 1
        talk.events.extend(RewardEvent(decision=last, name=name, value=value) for name, value in turn.events)
        if turn.forced:
            talk.append_forced(self.renderer.encode(turn.forced), demand.version)
        if turn.observation is None:
            return talk.finish(turn.ending)
        if talk.turn + 1 >= self.max_turns:
            return talk.finish("max_turns")
        ids, origin, seen = self.renderer.observation(turn.observation, closed=True)
        if len(talk.seen) + len(seen) > self.max_images:
            return talk.finish("max_images")
        if not talk.append_observation(ids, origin, seen):
            return talk.finish("overlong_total")
        return None
