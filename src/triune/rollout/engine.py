"""The protocol of a token engine: prompts with pictures in, sampled ids with exact log-probs out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from triune.core.trajectory import SamplingRule


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue once per seed. ids i32[P] with media placeholders expanded; `media` are the content
    hashes of the pictures in order; `owner` names the sample in errors."""

    ids: NDArray[np.int32]
    media: tuple[str, ...]
    seeds: tuple[int, ...]
    max_tokens: int
    owner: str


@dataclass(slots=True)
class Completion:
    """One continuation: the sampled ids (the stop token included), their behaviour log-probs, and how it ended."""

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    stopped: bool = False


class Engine(Protocol):
    """`exact`: same weights and arithmetic as the learner. `version`: the weights it samples from."""

    exact: bool

    def effective(self, rule: SamplingRule) -> SamplingRule:
        """The rule that is really sampled by (modality tokens banned); this one is recorded and replayed."""
        ...

    def complete(self, requests: Sequence[Request], rule: SamplingRule) -> list[list[Completion]]:
        """A completion per request and seed. A result depends on its prompt, rule and seed, never on its company."""
        ...

    def load(self, version: int) -> None: ...


def derive_seed(*parts: object) -> int:
    """A 62-bit seed that is a pure function of its parts (run seed, step, sample id, rank, ...)."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def uniforms(seeds: NDArray[np.uint64], position: NDArray[np.uint64] | int) -> NDArray[np.float64]:
    """One number in [0, 1) per seed for the token at `position`: a counter-based generator (splitmix64, Steele et
    al. 2014), so that a token's randomness does not depend on what else is in the batch."""
    with np.errstate(over="ignore"):
        state = seeds + np.asarray(position, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for _ in range(2):
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) / float(1 << 53)
