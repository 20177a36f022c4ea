"""Answers that belong to another prompt: what KTO's reference point is estimated from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from triune.algo.options import COLLECTORS, CollectOptions
from triune.core.errors import DataError, RecipeError
from triune.core.sample import Sample
from triune.core.trajectory import BASELINE
from triune.rollout.generator import Demand, Episode
from triune.rollout.placed import place


@COLLECTORS.register("mismatched")
class Mismatched(CollectOptions):
    """After each sample's prompt, the first recorded answer of the sample before it in the batch (the last's for the first).

    No term trains these rows (component `baseline`), and their verdict means nothing; `reference_point` takes its mean over
    them. One more row per sample.
    """

    kind: Literal["mismatched"] = "mismatched"

    def place(self, samples: Sequence[Sample], demand: Demand, family: Any) -> list[list[Episode]]:
        if len(samples) < 2:
            raise RecipeError(
                "collector mismatched needs answers to other prompts: draw two samples per step or more "
                "(train.prompts_per_step)"
            )
        texts = [_answer(sample) for sample in samples]
        rows = []
        for sample, text in zip(samples, texts[-1:] + texts[:-1], strict=True):
            made = place(family, sample, text, demand, component=BASELINE)
            trajectory = made.trajectory.model_copy(update={"group": f"{sample.id}#mismatched"})
            rows.append([Episode(sample, trajectory, made.outcome)])
        return rows


def _answer(sample: Sample) -> str:
    if sample.responses:
        return sample.responses[0].text
    if sample.expert is not None:
        return sample.expert
    raise DataError(
        f"sample {sample.id!r} has no recorded answer, which the collector mismatched would place elsewhere"
    )
