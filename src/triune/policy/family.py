"""The protocol of a policy family: how one kind of model turns what it generated into decisions with log-probs.

A family owns the model, the payload of its trajectories and the layout of its batches. The learner, the objectives
and the monitor see decisions only. Its contract, checked by a contract test and at start-up: with unchanged weights,
`evaluate` gives the behaviour log-probs under the recorded SamplingRule, within 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from triune.algo.options import ViewOptions
from triune.algo.types import Batch, Evaluated
from triune.core.sample import Sample
from triune.core.trajectory import Trajectory
from triune.policy.views import View


class Family(Protocol):
    """`provides` names the extras that `evaluate` can return besides log-probs (entropy, value, ...), `views` the kinds of
    views that it can be asked for (`frozen`, `corrupted`)."""

    provides: frozenset[str]
    views: frozenset[str]

    def declare(self, name: str, view: ViewOptions) -> View:
        """Makes `evaluate(view=name)` mean this, a kind of `views`. The same view declared again is the one that is held."""
        ...

    def modules(self) -> Mapping[str, nn.Module]:
        """Trainable parts by the names that recipes freeze and give learning rates to; together, all that can train."""
        ...

    def check(self, sample: Sample) -> None:
        """Raises DataError naming the sample when it cannot be run (broken media, prompt longer than the window)."""
        ...

    def begin_step(self, samples: Sequence[Sample]) -> None:
        """Called before a step's first batch: drop the last step's caches, make these samples' media known. Media of later
        batches become known beside them, where `check` or the generator meets them."""
        ...

    def cost(self, trajectory: Trajectory) -> int:
        """What a trajectory weighs in a micro-batch budget, in tokens (or the like); `vision_cost`: its media tokens."""
        ...

    def vision_cost(self, trajectory: Trajectory) -> int: ...

    def pack(self, trajectories: Sequence[Trajectory]) -> Batch:
        """Lays trajectories out for `evaluate`; decisions keep the order of the trajectories."""
        ...

    def evaluate(
        self, batch: Batch, *, want: frozenset[str] = frozenset(), view: str = "current"
    ) -> Evaluated:
        """Log-probs of a view's decisions under the recorded rules, and the extras in `want`."""
        ...

    def save(self, path: Path) -> None:
        """Writes the model so that `load` and the ecosystem's own loader can read it."""
        ...

    def load(self, path: Path) -> None:
        """Reads weights written by `save` into the live model, bit for bit."""
        ...
