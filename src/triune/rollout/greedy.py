"""Greedy answers beside a step's rollouts: what a step's prompts would have got without chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from triune.core.sample import Sample
from triune.core.trajectory import BASELINE
from triune.rollout.generator import Demand, Episode, Generator


def greedy_rows(generator: Generator, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
    """One more rollout per sample at temperature 0, where the demand asks for it; nothing where it does not.

    Each is a row of its own, so that a judge who compares the rollouts of a group does not see it, with the group key of
    its sample and the component `baseline`.
    """
    if not demand.greedy:
        return []
    rule = demand.rule.model_copy(update={"temperature": 0.0})
    alone = replace(demand, rollouts=1, rule=rule, greedy=False, starts={})
    return [[_renamed(row[0], demand.rollouts)] for row in generator.generate(samples, alone)]


def _renamed(episode: Episode, rank: int) -> Episode:
    """Its names must not be those of the first sampled rollout."""
    name = f"{episode.sample.id}#greedy"
    trajectory = episode.trajectory.model_copy(
        update={"id": name, "episode": name, "rank": rank, "component": BASELINE}
    )
    return Episode(episode.sample, trajectory, episode.outcome.model_copy(update={"id": name, "rank": rank}))
