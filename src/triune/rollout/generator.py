"""The protocol that fills a step with experience: samples in, judged-ready episodes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule, Trajectory
from triune.core.verdict import Outcome
from triune.rollout.starts import Start


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished rollout: what the policy did, and what judging may look at."""

    sample: Sample
    trajectory: Trajectory
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Demand:
    """What a step asks of a generator: `rollouts` per sample under `rule`, seeded, by weights number `version`; `starts`
    has what single rollouts (sample, rank) begin with; `greedy` and `mixture` (view, its share) ask for one more each (see
    `rollout/beside.py`)."""

    rollouts: int
    rule: SamplingRule
    seed: int
    version: int
    progress: Progress
    starts: Mapping[tuple[str, int], Start] = field(default_factory=dict)
    greedy: bool = False
    mixture: tuple[str, float] | None = None


class Generator(Protocol):
    """`exact` promises behaviour log-probs equal to the learner's, so that the old-log-prob pass can be skipped."""

    exact: bool

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        """Episodes of every sample, in order; an episode that failed is returned with its ending, never dropped."""
        ...

    def load(self, version: int) -> None:
        """Makes the learner's current weights, now called `version`, the ones that generate."""
        ...
