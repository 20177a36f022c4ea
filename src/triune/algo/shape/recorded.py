"""Labels and scores that recorded answers carry, as their rewards: preferences that come from data."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Literal

from triune.algo.options import SHAPES, ShapeOptions
from triune.algo.step import Step
from triune.algo.types import Rewards
from triune.core.sample import Response, Sample
from triune.core.trajectory import BASELINE
from triune.monitor.metric import Metric
from triune.rollout.preferred import preferred


@SHAPES.register("recorded")
class RecordedRewards(ShapeOptions):
    """The reward of a recorded answer is its `score`, or where the sample's answers have none, 1 if it was chosen and 0 if it
    was rejected; an answer with neither abstains. Rows that a collector made for a comparison are worth what it says.
    Rollouts that the policy drew keep their verdict.

    An answer is known by its text, as the generator `recorded` and the collectors keep it; `recorded/unknown` counts placed rows
    whose text is none of the sample's.
    """

    kind: Literal["recorded"] = "recorded"

    def __call__(self, step: Step) -> tuple[Rewards, list[Metric]]:
        total, unknown = step.rewards.total.clone(), defaultdict[str, list[float]](list)
        for index, one in enumerate(step.scored):
            if (made := preferred(one.trajectory)) is not None:
                total[index] = made
                continue
            forced = one.trajectory.decisions.forced
            if one.trajectory.component == BASELINE:  # compared with, and not trained
                continue
            if not len(forced) or not bool(forced.all()) or not one.sample.responses:
                continue
            worth = worths(one.sample)
            known = one.outcome.text.strip() in worth
            unknown[one.trajectory.source].append(float(not known))
            if known:
                found = worth[one.outcome.text.strip()]
                total[index] = float("nan") if found is None else found
        metrics = [Metric.of("recorded/unknown", values, source=source) for source, values in unknown.items()]
        return replace(step.rewards, total=total), metrics


def worths(sample: Sample) -> dict[str, float | None]:
    """What each recorded answer of a sample is worth, by its text without surrounding space."""
    scored = all(answer.score is not None for answer in sample.responses)
    return {answer.text.strip(): _worth(answer, scored) for answer in sample.responses}


def _worth(answer: Response, scored: bool) -> float | None:
    if scored:
        return answer.score
    return None if answer.label is None else float(answer.label == "chosen")
