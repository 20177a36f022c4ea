"""Answers beside a step's rollouts that are judged and never trained on: greedy ones, and those of a mixture of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from triune.core.errors import RecipeError
from triune.core.sample import Sample
from triune.core.trajectory import BASELINE
from triune.rollout.generator import Demand, Episode, Generator


def beside(generator: Generator, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
    """One more rollout per sample of each kind that the demand asks for.

    Each is a row of its own, so that a judge who compares the rollouts of a group does not see it, with the group key of
    its sample and the component `baseline`. Raises RecipeError for a generator that cannot draw from a mixture.
    """
    alone = replace(demand, rollouts=1, greedy=False, mixture=None, starts={})
    rows: list[list[Episode]] = []
    if demand.greedy:
        rule = demand.rule.model_copy(update={"temperature": 0.0})
        rows += _drawn(generator, samples, replace(alone, rule=rule), "greedy", demand.rollouts)
    if demand.mixture is not None:
        blended: Any = getattr(getattr(generator, "engine", None), "blended", None)
        if blended is None:
            raise RecipeError(
                f"{type(generator).__name__} cannot draw from a mixture of policy and reference: use rollout.kind native "
                "without refresh_every and dtype"
            )
        with blended(*demand.mixture):
            # Other random numbers than the first rollout's, or it would be an echo of that.
            rows += _drawn(
                generator, samples, replace(alone, seed=demand.seed + 1), "mixture", demand.rollouts + 1
            )
    return rows


def _drawn(
    generator: Generator, samples: Sequence[Sample], demand: Demand, name: str, rank: int
) -> list[list[Episode]]:
    return [[_renamed(row[0], name, rank)] for row in generator.generate(samples, demand)]


def _renamed(episode: Episode, name: str, rank: int) -> Episode:
    """Its names must not be those of the first sampled rollout."""
    name = f"{episode.sample.id}#{name}"
    trajectory = episode.trajectory.model_copy(
        update={"id": name, "episode": name, "rank": rank, "component": BASELINE}
    )
    return Episode(episode.sample, trajectory, episode.outcome.model_copy(update={"id": name, "rank": rank}))
