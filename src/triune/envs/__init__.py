"""Environments: worlds that answer a policy's turns with observations and rewards. One module each, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from triune.core.registry import Registry
from triune.core.sample import Media, Sample
from triune.core.verdict import Call, Ending


@dataclass(frozen=True, slots=True)
class Observation:
    """What an environment shows after a turn: text and pictures in order (str or Media)."""

    blocks: tuple[str | Media, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """An environment's answer to one turn of the policy; without an observation the episode is over (`ending`).

    `events` are (name, value) rewards for this turn and sit on its last token. `calls` are the tool calls it made, for
    verifiers to read. `prefill` is text that the harness puts at the start of the policy's next turn, after the
    observation ("now answer: "): forced decisions, sampled by nobody and never trained by RL.
    """

    observation: Observation | None = None
    events: tuple[tuple[str, float], ...] = ()
    calls: tuple[Call, ...] = ()
    ending: Ending = "answered"
    prefill: str = ""


class Environment(Protocol):
    """One episode's world, made without arguments (`sample.env.params` holds its parameters).

    `seed` is the same for every rollout of a sample, so that a group meets one world. `step` sees the text of the turn
    without its stop token. What they raise ends the episode as `env_error`: excluded and counted, nobody's score.
    `close` is called once for every world that was made, whatever happened.
    """

    def reset(self, sample: Sample, seed: int) -> None: ...

    def step(self, text: str) -> Turn: ...

    def close(self) -> None: ...


ENVIRONMENTS: Registry[type[Environment]] = Registry("environment", "triune.envs")
