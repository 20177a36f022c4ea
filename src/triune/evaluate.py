"""Evaluation: greedy answers to held-out samples, judged with every schedule frozen at its final value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule
from triune.evaluation.predictions import END
from triune.evaluation.probes import Probed, look
from triune.monitor.metric import Scored
from triune.policy.family import Family
from triune.rollout.generator import Demand, Episode, Generator
from triune.serve.build import build_judge
from triune.verify.judge import Judge

GREEDY = SamplingRule(temperature=0.0)


def respond(
    family: Family,
    generator: Generator,
    samples: Sequence[Sample],
    *,
    progress: Progress = END,
    version: int = 0,
    batch: int = 512,
) -> Iterator[Episode]:
    """One greedy answer per sample, in order, `batch` samples at a time."""
    demand = Demand(1, GREEDY, 0, version, progress)
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        family.begin_step(part)
        for row in generator.generate(part, demand):
            yield row[0]


def answer(
    family: Family,
    generator: Generator,
    judge: Judge,
    samples: Sequence[Sample] | Probed,
    *,
    progress: Progress = END,
    version: int = 0,
    batch: int = 512,
    on_batch: Callable[[int], None] | None = None,
) -> list[Scored]:
    """One greedy answer per sample, judged, in order. Samples that a probe changed are judged as they were before, so that
    a verifier which looks at the picture looks at the real one. `on_batch` is called with the number done."""
    probed = samples if isinstance(samples, Probed) else Probed(samples, samples)
    scored: list[Scored] = []
    shown: dict[Any, Any] = getattr(family, "shown", {})  # by environments; emptied at every batch
    met = dict[Any, Any]()
    for start in range(0, len(probed.samples), batch):
        part, real = (held[start : start + batch] for held in (probed.samples, probed.originals))
        episodes = list(respond(family, generator, part, progress=progress, version=version))
        met |= shown
        asked = [
            (r if e.sample is s else e.sample, (e.outcome,))
            for e, s, r in zip(episodes, part, real, strict=True)
        ]
        verdicts = judge.judge_many(asked, progress)
        scored += [
            Scored(e.sample, e.trajectory, e.outcome, v[0]) for e, v in zip(episodes, verdicts, strict=True)
        ]
        if on_batch is not None:
            on_batch(len(scored))
    shown.update(met)
    return scored


def accuracy(one: Scored) -> float:
    """What "accuracy" means in every table: the value of the sample's main check (1 or 0 for exact answers, IoU or F1
    at the final threshold for boxes); an episode that nobody could judge counts as wrong here, and by its status."""
    return one.verdict.main.value or 0.0


def answer_heldout(
    checkpoint: Path, *, probe: str = "", seed: int | None = None, samples: int | None = None
) -> tuple[list[Scored], list[Scored], Probed]:
    """A checkpoint's answers to the recipe's held-out samples of any seed, by source: as they are, and as a probe shows them
    (without one, no second answers)."""
    from triune.data.mixture import heldout
    from triune.train.checkpoint import policy

    recipe, family = policy(checkpoint)
    generator: Generator = recipe.rollout.build(family)  # type: ignore[attr-defined]
    with build_judge(recipe.judge) as judge:
        chosen = [sample for many in heldout(recipe, seed, samples).values() for sample in many]
        probed = look(probe, chosen)
        seen = answer(family, generator, judge, chosen)
        return seen, answer(family, generator, judge, probed) if probe else [], probed


def evaluate(
    checkpoint: Path, *, probe: str = "", seed: int | None = None, samples: int | None = None
) -> dict[str, dict[str, float]]:
    """Scores a checkpoint of a run on the recipe's held-out samples of any seed, as a probe shows them or as they are:
    {source: {accuracy, correct, unjudged, n}}."""
    seen, probed, _ = answer_heldout(checkpoint, probe=probe, seed=seed, samples=samples)
    by_source: dict[str, list[Scored]] = {}
    for one in probed if probe else seen:
        by_source.setdefault(one.sample.source, []).append(one)
    return {
        source: {
            "accuracy": sum(map(accuracy, done)) / len(done),
            "correct": sum(bool(o.verdict.correct) for o in done) / len(done),
            "unjudged": sum(o.verdict.reward is None for o in done) / len(done),
            "n": len(done),
        }
        for source, done in by_source.items()
    }
