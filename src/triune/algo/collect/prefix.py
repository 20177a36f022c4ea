"""Rollouts that continue a demonstration: the policy is shown less and less of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from triune.algo.collect.demonstrations import lacking
from triune.algo.options import COLLECTORS, CollectOptions
from triune.core.errors import RecipeError
from triune.core.sample import Sample
from triune.core.schedule import Cosine, Progress, Schedule, resolve
from triune.monitor.metric import Metric, Scored
from triune.rollout.engine import derive_seed
from triune.rollout.generator import Demand
from triune.rollout.starts import Start


@COLLECTORS.register("prefix")
class Prefix(CollectOptions):
    """The last `rollouts` of each sample's G begin with the first part of its demonstration (Prefix-RFT, arXiv 2507.01679).

    Its share l ~ low + (high - low) Beta(alpha, beta), one draw per sample and step; k = floor(l n) of the n tokens (the
    end of the turn included), least <= k <= n - 1. The paper's low falls from 0.95 to 0.05 by a cosine. The prefix is
    placed: the terms of the policy train what follows it, the term `prefix_tokens` what was placed. A sample without
    demonstration is sampled as usual and counted per source (`prefix/missing`); that none has one is an error.
    """

    kind: Literal["prefix"] = "prefix"
    rollouts: int = Field(
        default=1, ge=1, description="of a sample's rollouts, those that continue the demonstration"
    )
    low: float | Schedule = Field(
        default=Cosine(start=0.95, end=0.05),
        description="least share of the demonstration, or a schedule of it",
    )
    high: float = Field(default=0.95, ge=0, le=1, description="largest share")
    alpha: float = Field(default=1.0, gt=0, description="of the Beta distribution; 1, 1 is uniform")
    beta: float = Field(default=1.0, gt=0, description="of the Beta distribution")
    least: int = Field(default=1, ge=1, description="fewest tokens of a prefix")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if isinstance(self.low, (int, float)) and not 0 <= self.low <= 1:
            raise ValueError(f"low is a share of the demonstration, got {self.low}")
        return self

    def least_share(self, progress: Progress) -> float:
        """low at this progress."""
        return self.low if isinstance(self.low, (int, float)) else resolve(self.low, progress)

    def demand(self, demand: Demand, samples: Sequence[Sample]) -> Demand:
        if self.rollouts >= demand.rollouts:
            raise RecipeError(
                f"collector prefix: {self.rollouts} of {demand.rollouts} rollouts would continue a demonstration; some must "
                "begin on their own to compare with (train.rollouts_per_prompt)"
            )
        shown = [sample for sample in samples if sample.expert is not None]
        if not shown:
            raise RecipeError(
                f"collector prefix: none of the {len(samples)} samples of this step has a demonstration (the first is "
                f"{samples[0].id!r}); give the rows an `expert`, or name its column in the adapter"
            )
        low = self.least_share(demand.progress)
        starts = dict(demand.starts)
        for sample in shown:
            seed = derive_seed(demand.seed, "prefix", demand.version, sample.id)
            share = low + (self.high - low) * float(np.random.default_rng(seed).beta(self.alpha, self.beta))
            assert sample.expert is not None
            start = Start(sample.expert, min(1.0, max(0.0, share)), self.least)
            starts |= {(sample.id, demand.rollouts - 1 - i): start for i in range(self.rollouts)}
        return replace(demand, starts=starts)

    def select(
        self, scored: Sequence[Scored], more: Any, progress: Progress
    ) -> tuple[list[Scored], list[Metric]]:
        begun = {one.sample.id for one in scored if one.trajectory.decisions.forced[:1].any()}
        if not begun & {one.sample.id for one in scored if one.sample.expert is not None}:
            raise RecipeError(
                "collector prefix: no rollout of this step continues a demonstration. Either this generator cannot begin "
                "with given tokens, or every demonstration is a single token"
            )
        return list(scored), lacking(scored, begun, "prefix/missing")
