"""Generators that hold something of their own which a resumed run needs again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from triune.rollout.generator import Generator


@runtime_checkable
class Remembers(Protocol):
    """What a generator with a memory has besides: its state goes into every checkpoint."""

    def state(self) -> dict[str, object]: ...

    def restore(self, state: Mapping[str, object], version: int) -> None:
        """In place of `load`: the learner's `version` is loaded, `state` was saved with it ({}: nothing was)."""
        ...


def state_of(generator: Generator) -> dict[str, object]:
    state = getattr(generator, "state", None)  # of one that several processes share: that of the one inside
    return {} if state is None else dict(state())


def go_back(generator: Generator, state: Mapping[str, object], version: int) -> None:
    """Has a generator go on from a checkpoint."""
    restore = getattr(generator, "restore", None)
    if restore is not None:
        restore(state, version)
    else:
        generator.load(version)
