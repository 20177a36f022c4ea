"""Answers beside the rollouts: asked for by a collector, drawn beside the others, judged alone, trained by nobody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from triune.algo.options import COLLECTORS
from triune.algo.views.frozen import FrozenPolicy
from triune.core.errors import RecipeError
from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule
from triune.loop import Loop
from triune.monitor.metric import scalar
from triune.monitor.source import rollout_metrics
from triune.rollout.beside import beside
from triune.rollout.generator import Demand, Episode
from triune.testing.models import TINY, ragged, talker, tiny
from triune.testing.table import scored, trajectory

DEMAND = Demand(3, SamplingRule(temperature=0.7), 1, 0, Progress(step=1, total_steps=2))


class Recorder:
    """Answers nothing; keeps what it was asked."""

    exact = True

    def __init__(self) -> None:
        self.asked: list[Demand] = []

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        self.asked.append(demand)
        return []

    def load(self, version: int) -> None: ...


def test_nothing_is_drawn_unless_it_is_asked_for() -> None:
    generator = Recorder()
    assert beside(generator, [], DEMAND) == []
    assert generator.asked == []
    asked = COLLECTORS["greedy"]().demand(DEMAND, [])
    beside(generator, [], asked)
    (demand,) = generator.asked
    assert demand.rollouts == 1
    assert demand.rule == SamplingRule(temperature=0.0)
    assert not demand.greedy


def test_a_greedy_answer_is_a_row_of_its_own_in_the_group_of_its_sample() -> None:
    family = tiny(next(iter(TINY)))
    samples = list(ragged())
    family.begin_step(samples)
    generator = talker(family)
    asked = COLLECTORS["greedy"]().demand(DEMAND, samples)
    rows, again = (beside(generator, samples, asked) for _ in range(2))
    sampled = generator.generate(samples, asked)
    assert [len(row) for row in rows] == [1] * len(samples)
    for sample, (one,), (same,), others in zip(samples, rows, again, sampled, strict=True):
        assert one.trajectory.id == one.outcome.id == f"{sample.id}#greedy"
        assert one.trajectory.id not in {other.trajectory.id for other in others}
        assert one.trajectory.group == others[0].trajectory.group
        assert one.trajectory.component == "baseline"
        assert one.trajectory.rank == one.outcome.rank == asked.rollouts
        assert one.trajectory.rules[0][1].greedy
        assert one.trajectory.payload == same.trajectory.payload  # nothing is left to chance


def test_a_run_with_a_greedy_baseline(tmp_path: Path) -> None:
    keys = (
        "train.total_steps=2", "train.prompts_per_step=3", "train.rollouts_per_prompt=2", "rollout.max_tokens=8",
        "data.heldout_per_source=1", "judge.workers=0", "monitor.sinks=[]", "data.sources=[{name: embedded/counting/*}]",
        "algo.advantage={kind: remax}", "algo.collect={greedy: {kind: greedy}}",
    )  # fmt: skip
    with Loop(Recipe.load(find_recipe("quickstart"), keys), tmp_path / "run") as loop:
        found = loop.step()
    baselines = [one for one in found if one.trajectory.component == "baseline"]
    assert len(found) == 9
    assert len(baselines) == 3
    assert {one.reason for one in baselines} == {"baseline"}
    assert not any(one.in_loss or one.in_baseline for one in baselines)
    assert all(one.verdict.reward is not None for one in baselines)


def test_greedy_answers_are_logged_apart() -> None:
    """They are not drawn as the others are: a mean over both is the mean of neither."""
    rows = [
        scored(trajectory(id="a"), 0.0),
        scored(trajectory(id="b"), 0.5),
        scored(trajectory(id="g", component="baseline"), 1.0),
    ]
    metrics = rollout_metrics(rows)
    found = {m.name: m for m in metrics if not m.label("component")}
    assert found["reward"].mean == 0.25
    assert found["reward"].count == found["completions/length"].count == 2
    assert found["baseline/reward"] == scalar("baseline/reward", 1.0, source="source", task="task")


def test_a_mixture_lies_between_the_policy_and_its_reference() -> None:
    """Token by token: the log-probs that are recorded are those of the mixed logits, renormalised."""
    family = tiny(next(iter(TINY)))
    samples = list(ragged())
    reference = family.declare("reference", FrozenPolicy())
    family.begin_step(samples)
    generator = talker(family)
    plain = beside(generator, samples, COLLECTORS["mixture"](mix=0.0).demand(DEMAND, samples))
    with torch.no_grad():
        family.head.weight.add_(
            0.5 * torch.randn(family.head.weight.shape, generator=torch.Generator().manual_seed(1))
        )
    for mix in (0.0, 0.3, 1.0):
        rows = beside(generator, samples, COLLECTORS["mixture"](mix=mix).demand(DEMAND, samples))
        drawn = [row[0].trajectory for row in rows]
        assert {one.component for one in drawn} == {"baseline"}
        batch = family.pack(drawn)
        with torch.no_grad():
            mine, its = (
                family.evaluate(batch, want=frozenset({"distribution"}), view=view).extras["distribution"]
                for view in ("current", "reference")
            )
        possible = mine > -torch.inf
        mixed = torch.where(possible, (1 - mix) * mine + mix * its, -torch.inf).log_softmax(-1)
        ids = torch.cat(
            [torch.from_numpy(one.payload.arrays["ids"][one.payload.arrays["at"]]).long() for one in drawn]
        )
        expected = mixed.gather(1, ids[:, None])[:, 0]
        assert torch.allclose(batch.logp_behavior, expected, atol=1e-4), mix
    if mix == 1.0:  # all the reference's: what the policy said before it moved
        said = [row[0].trajectory.payload.arrays["ids"].tolist() for row in (*plain, *rows)]
        assert said[: len(samples)] == said[len(samples) :]
    assert reference.nbytes > 0


def test_a_generator_without_a_mixture_says_so() -> None:
    with pytest.raises(RecipeError, match="cannot draw from a mixture"):
        beside(Recorder(), [], COLLECTORS["mixture"]().demand(DEMAND, []))


def test_a_run_against_the_mixture(tmp_path: Path) -> None:
    keys = (
        "train.total_steps=2", "train.prompts_per_step=3", "train.rollouts_per_prompt=2", "rollout.max_tokens=8",
        "data.heldout_per_source=1", "judge.workers=0", "monitor.sinks=[]", "data.sources=[{name: embedded/counting/*}]",
        "algo.preset=nash-md", "algo.terms.policy.beta=0.1",
    )  # fmt: skip
    with Loop(Recipe.load(find_recipe("quickstart"), keys), tmp_path / "run") as loop:
        found = loop.step() + loop.step()
    opponents = [one for one in found if one.trajectory.component == "baseline"]
    assert [one.trajectory.id.split("#")[1] for one in opponents] == ["mixture"] * 6
    assert not any(one.in_loss for one in opponents)
