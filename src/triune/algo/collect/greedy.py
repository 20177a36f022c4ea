"""A greedy answer to every prompt, to compare the others with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from triune.algo.options import COLLECTORS, CollectOptions
from triune.core.sample import Sample
from triune.rollout.generator import Demand


@COLLECTORS.register("greedy")
class GreedyAnswers(CollectOptions):
    """One more rollout per prompt at temperature 0, as the baseline of `remax`: judged like the others, in no loss and in no
    group's statistics. It costs a rollout per prompt, and its row a forward pass (it is packed with its group)."""

    kind: Literal["greedy"] = "greedy"

    def demand(self, demand: Demand, samples: Sequence[Sample]) -> Demand:
        return replace(demand, greedy=True)
