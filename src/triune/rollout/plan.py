"""Episodes in groups, and small plans of episodes that depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from triune.core.sample import Sample
from triune.core.trajectory import Group
from triune.rollout.generator import Demand, Episode, Generator


def by_group(episodes: Sequence[Episode]) -> list[tuple[Group, list[Episode]]]:
    """Episodes under their group keys, in order of first appearance (a key is mostly, not always, the sample)."""
    table: dict[str, list[Episode]] = {}
    for episode in episodes:
        table.setdefault(episode.trajectory.group, []).append(episode)
    return [(Group(key=k, trajectories=tuple(e.trajectory for e in many)), many) for k, many in table.items()]


class Stage(Protocol):
    """One node of an episode plan: it runs after those it depends on, and makes its samples from their episodes."""

    name: str
    after: Sequence[str]

    def samples(self, done: Mapping[str, list[list[Episode]]]) -> Sequence[Sample]: ...


def run_plan(stages: Sequence[Stage], generator: Generator, demand: Demand) -> dict[str, list[list[Episode]]]:
    """Runs a small dependency graph of episodes (refinement after critique, decision after clues), in waves.

    Raises ValueError for a dependency that is unknown or circular.
    """
    done: dict[str, list[list[Episode]]] = {}
    waiting = list(stages)
    while waiting:
        ready = [stage for stage in waiting if all(name in done for name in stage.after)]
        if not ready:
            raise ValueError(f"stages {[s.name for s in waiting]} wait for each other or an unknown one")
        for stage in ready:
            done[stage.name] = generator.generate(stage.samples(done), demand)
        waiting = [stage for stage in waiting if stage.name not in done]
    return done
