"""Rows that are made to be compared: which group they belong to, and which of them is preferred."""

from __future__ import annotations

from triune.core.sample import Sample
from triune.core.trajectory import Trajectory
from triune.core.verdict import RewardEvent
from triune.rollout.generator import Episode

PREFERRED = "preferred"
"""Name of the event of a row that was made for a comparison: 1 for the better one, 0 for the other. No check asks for it."""


def prefer(episode: Episode, sample: Sample, group: str, rank: int, worth: float) -> Episode:
    """The episode as row `rank` of a group of its own, worth 1 or 0 whatever the judge says of its text."""
    made = episode.trajectory
    name = f"{group}-{rank}"
    return Episode(
        sample,
        made.model_copy(
            update={
                "id": name,
                "episode": name,
                "sample": sample.id,
                "group": group,
                "rank": rank,
                "events": (*made.events, RewardEvent(decision=0, name=PREFERRED, value=worth)),
            }
        ),
        episode.outcome.model_copy(update={"id": name, "rank": rank}),
    )


def preferred(trajectory: Trajectory) -> float | None:
    """What a row that was made for a comparison is worth; None of any other."""
    return next((event.value for event in trajectory.events if event.name == PREFERRED), None)
