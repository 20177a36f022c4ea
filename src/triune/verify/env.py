"""Rewards that an environment gave, as a check: `env/NAME` is the sum of the episode's reward events of that name."""

from __future__ import annotations

import math

from pydantic import Field, JsonValue

from triune.core.base import Frozen
from triune.core.sample import Sample
from triune.core.verdict import SCORED, Outcome
from triune.verify.verifier import Context, Score, Verifier

PREFIX = "env/"


class EnvParams(Frozen):
    """Of a check `env/NAME`."""

    threshold: float = Field(1.0, description="a sum at or above it is correct")


class EnvReward(Verifier[EnvParams, None]):
    """Not in the registry: one exists for every name that follows `env/`.

    No value as soon as one event has none: the rest of the sum would not be the episode's reward. An episode without
    such an event earned nothing: 0.
    """

    Params = EnvParams
    limits = (-math.inf, math.inf)

    def __init__(self, name: str) -> None:
        self.event = name

    def prepare(self, truth: JsonValue, sample: Sample, params: EnvParams) -> None:
        return

    def score(self, outcome: Outcome, reference: None, params: EnvParams, context: Context) -> Score:
        events = tuple(event for event in outcome.events if event.name == self.event)
        for event in events:
            if event.status not in SCORED or event.value is None:
                status = "error" if event.status in SCORED else event.status
                return Score(
                    None, status, f"the reward at decision {event.decision} is missing", events=events
                )
        total = math.fsum(event.value for event in events if event.value is not None)
        return Score(total, detail=f"{len(events)} events", correct=total >= params.threshold, events=events)
