"""One episode's growing list of ids. What the engine sampled is what is trained.

Token in, token out: nothing that was decoded is ever encoded again; text is a view for parsing and judging. Every id
is recorded with where it came from when it is appended, so a loss mask is a fact, not a search for patterns; every
picture is recorded with the place of its tokens, so nothing ever counts placeholders to find it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from triune.core.sample import Frame, Sample
from triune.core.trajectory import Decisions, Payload, Trajectory
from triune.core.verdict import Call, Ending, Outcome, RewardEvent, Seen
from triune.envs import Observation
from triune.rollout.engine import Completion
from triune.rollout.generator import Demand, Episode

PROMPT, MODEL, FORCED, TOOL_TEXT, TOOL_IMAGE = range(5)
"""Origins of a token: the prompt, sampled by the policy, placed by the harness, an observation's text or picture."""

TRUNCATIONS = frozenset({"overlong_turn", "overlong_total", "max_turns", "max_images"})
FAULTS = frozenset({"env_error", "aborted", "inconsistent"})
"""Endings that are not the policy's fault: the episode neither terminated nor was cut by a limit."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Ids that are placed together: a prompt or an observation. ids i32[T] with placeholders expanded; `pictured` bool[T]
    marks the tokens that stand for pictures; picture k of `seen` begins at token `starts[k]` of the segment."""

    ids: NDArray[np.int32]
    pictured: NDArray[np.bool_]
    seen: tuple[Seen, ...]
    starts: tuple[int, ...]


class Renderer(Protocol):
    """What a conversation needs of a language family: prompts and observations as ids, ids as text.

    `reads`: where a critic reads values, if there is one. `prompt` and `observation` raise DataError naming the sample;
    `observation` is what follows a turn that ended with a stop token.
    """

    frame: Frame
    window: int
    stop_ids: tuple[int, ...]

    @property
    def reads(self) -> str | None: ...

    def prompt(self, sample: Sample) -> Segment: ...

    def observation(self, observation: Observation, owner: str) -> Segment: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(slots=True)
class Conversation:
    """One episode under construction; every append is atomic and checked against the window first."""

    sample: Sample
    window: int
    ids: list[int] = field(default_factory=list)
    origin: list[int] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    media_at: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    events: list[RewardEvent] = field(default_factory=list)
    resolved: dict[str, float] = field(default_factory=dict)
    turn: int = 0
    ending: Ending = "answered"
    finished: bool = False

    @classmethod
    def begin(cls, sample: Sample, prompt: Segment, window: int) -> Conversation:
        talk = cls(sample, window)
        talk._place(prompt, PROMPT, PROMPT)
        return talk

    def append_sampled(self, completion: Completion, version: int) -> None:
        """The engine's ids, exactly as sampled."""
        self._decide(completion.ids, completion.logps, False, self.turn, version)

    def append_placed(self, ids: Sequence[int], version: int) -> None:
        """Ids that the policy is made to say in this turn, exactly as given; the caller has looked at the window."""
        self._decide(ids, [float("nan")] * len(ids), True, self.turn, version)

    def append_observation(self, segment: Segment, prefill: Sequence[int], version: int) -> bool:
        """Adds text, placeholders and pictures, and the next turn's forced start; or nothing at all (False) when that
        would not leave room for at least one more sampled token: the caller then ends the episode."""
        if len(self.ids) + len(segment.ids) + len(prefill) + 1 > self.window:
            return False
        self._place(segment, TOOL_TEXT, TOOL_IMAGE)
        self._decide(prefill, [float("nan")] * len(prefill), True, self.turn + 1, version)
        return True

    def _place(self, segment: Segment, text: int, picture: int) -> None:
        self.media_at += [len(self.ids) + start for start in segment.starts]
        self.seen += segment.seen
        self.ids += segment.ids.tolist()
        self.origin += np.where(segment.pictured, picture, text).tolist()

    def _decide(
        self, ids: Sequence[int], logps: Sequence[float], forced: bool, turn: int, version: int
    ) -> None:
        count = len(ids)
        self.at += range(len(self.ids), len(self.ids) + count)
        self.ids += ids
        self.origin += [FORCED if forced else MODEL] * count
        self.logps += logps
        self.forced += [forced] * count
        self.turns += [turn] * count
        self.versions += [version] * count

    def finish(self, ending: Ending) -> None:
        self.ending, self.finished = ending, True

    def episode(self, rank: int, demand: Demand, seed: int, renderer: Renderer) -> Episode:
        """Seals the episode. A trailing observation that no turn followed is cut: nothing depends on it but a critic's value
        of where a limit cut the episode. No judge sees it."""
        truncated = self.ending in TRUNCATIONS
        said_until = self.at[-1] + 1 if self.at else len(self.ids)
        end = len(self.ids) if truncated and renderer.reads else said_until
        shown, kept = (sum(place < until for place in self.media_at) for until in (said_until, end))
        name = f"{self.sample.id}#{rank}"
        trajectory = Trajectory(
            id=name,
            sample=self.sample.id,
            source=self.sample.source,
            task=self.sample.task,
            group=self.sample.id,
            rank=rank,
            episode=name,
            ending=self.ending,
            terminated=not truncated and self.ending not in FAULTS,
            truncated=truncated,
            rules=((0, demand.rule),),
            decisions=Decisions.of(self.logps, version=self.versions, turn=self.turns, forced=self.forced),
            payload=Payload(
                family="language",
                arrays={
                    "ids": np.asarray(self.ids[:end], np.int32),
                    "origin": np.asarray(self.origin[:end], np.int8),
                    "at": np.asarray(self.at, np.int32),
                    "media_at": np.asarray(self.media_at[:kept], np.int32),
                },
                media=tuple(s.sha256 for s in self.seen[:kept]),
            ),
            events=tuple(self.events),
            resolved=self.sample.resolved(demand.progress) | self.resolved,
            seed=seed,
        )
        said = [self.ids[i] for i in self.at]
        while said and said[-1] in renderer.stop_ids:
            said.pop()
        outcome = Outcome(
            id=name,
            text=renderer.decode(said),
            calls=tuple(self.calls),
            media=tuple(self.seen[:shown]),
            frame=renderer.frame,
            ending=self.ending,
            truncated=truncated,
            num_tokens=len(self.forced) - sum(self.forced),
            num_turns=self.turn + 1,
            events=tuple(self.events),
            rank=rank,
        )
        return Episode(self.sample, trajectory, outcome)
