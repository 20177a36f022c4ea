"""How often a policy's implied reward agrees with recorded preferences that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from triune.algo.objective import Objective
from triune.algo.shape.recorded import worths
from triune.algo.types import Credit, Rewards
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule
from triune.monitor.metric import Metric, merge
from triune.policy.family import Family
from triune.rollout.generator import Demand
from triune.rollout.recorded import recorded


def implied(
    family: Family, samples: Sequence[Sample], *, beta: float = 0.1, batch: int = 16
) -> dict[str, dict[str, float]]:
    """Per source, over all pairs of each sample's recorded answers: `accuracy`, the share whose order beta (log pi - log pi_ref)
    gets right (a half where it says nothing), its mean `margin`, and `n`.

    The reference is the view `reference`, which the policy's run must have declared. Raises DataError naming a sample without
    answers.
    """
    objective = Objective.of([{"kind": "dpo", "beta": beta, "pairs": {"choose": "all"}}])
    progress = Progress(step=1, total_steps=1)
    demand = Demand(0, SamplingRule(), 0, 0, progress)
    found: list[Metric] = []
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        family.begin_step(part)
        episodes = [episode for sample in part for episode in recorded(family, sample, demand)]
        packed = family.pack([episode.trajectory for episode in episodes])
        with torch.no_grad():
            now, views = family.evaluate(packed), {"reference": family.evaluate(packed, view="reference")}
        worth = [worths(episode.sample)[episode.outcome.text.strip()] for episode in episodes]
        total = torch.tensor([float("nan") if w is None else w for w in worth], dtype=torch.float64)
        every = torch.ones(len(episodes), dtype=torch.bool)
        nothing = torch.zeros(packed.num_decisions)
        credit = Credit(nothing, every, every, [""] * len(episodes), every[:0])
        found += objective.whole(replace(packed), credit, now, views, Rewards(total, nothing)).metrics
    table: dict[str, dict[str, float]] = {}
    for metric in merge(found):
        name = metric.name.removeprefix("preference/")
        if name in ("accuracy", "margin") and metric.name != name:
            table.setdefault(metric.label("source"), {})[name] = metric.mean
            table[metric.label("source")]["n"] = float(metric.count)
    return table
