from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from triune.algo.objective import Objective
from triune.algo.options import PolicyGradient
from triune.algo.types import Batch, Credit, Evaluated
from triune.core.errors import RecipeError
from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.core.schedule import Progress
from triune.core.trajectory import Trajectory
from triune.testing.table import TableFamily, recipe, share, trajectory
from triune.train.learner import Learner


def ready(rows: list[Trajectory], advantage: float = 1.0) -> tuple[Batch, Credit]:
    """A batch with one advantage for all."""
    batch, ones = Batch.of(rows, None), torch.ones(len(rows), dtype=torch.bool)
    flat = torch.full((batch.num_decisions,), advantage)
    return batch, Credit(flat, ones, ones, [""] * len(rows), torch.zeros(1, dtype=torch.bool))


def loss(
    given: tuple[Batch, Credit], logp: torch.Tensor, *terms: dict[str, Any], old: float = -1.0
) -> tuple[float, torch.Tensor]:
    logp = logp.clone().requires_grad_()
    views = {"old": Evaluated(torch.full_like(logp, old).detach())}
    total = Objective.of(terms).whole(*given, Evaluated(logp), views).total
    total.backward()
    assert logp.grad is not None
    return float(total.detach()), logp.grad


def test_all_masked_is_zero_and_attached_to_the_graph() -> None:
    batch = ready([trajectory([1, 2], forced=True)])
    value, gradient = loss(batch, torch.tensor([-math.inf, -1.0]), {"kind": "ppo_clip"})
    assert value == 0.0
    assert gradient.tolist() == [0.0, 0.0]


def test_the_log_ratio_is_clamped_and_reported_unclamped() -> None:
    batch = ready([trajectory([1, 2])], advantage=-1.0)
    result = Objective.of([{"kind": "ppo_clip"}]).whole(
        *batch, Evaluated(torch.tensor([99.0, -1.0])), {"old": Evaluated(torch.tensor([-1.0, -1.0]))}
    )
    assert float(result.total) == pytest.approx((math.exp(20) + 1) / 2)
    (reported,) = [m for m in result.metrics if m.name == "log_ratio_abs"]
    assert reported.max == 100.0
    _, gradient = loss(batch, torch.tensor([99.0, -1.0]), {"kind": "ppo_clip"})
    assert gradient.tolist() == [0.0, 0.5]


def test_where_nothing_moved_the_gradient_is_the_advantage() -> None:
    batch = ready([trajectory([1, 2, 3])], advantage=0.7)
    for mode in ({}, {"dual": 3.0}, {"clip_low": 0.0, "clip_high": 0.0}):
        _, gradient = loss(batch, torch.full((3,), -1.0), {"kind": "ppo_clip", **mode})
        assert gradient.tolist() == pytest.approx([-0.7 / 3] * 3)


def test_clipping_is_counted_per_source_on_the_side_that_it_binds() -> None:
    rows = [trajectory([1, 2], id="a", source="left"), trajectory([1], id="b", source="right")]
    batch = ready(rows)
    batch[1].advantage = torch.tensor([1.0, -1.0, 1.0])
    logp = torch.tensor([-0.5, -1.5, -1.5])  # up with A > 0, down with A < 0, down with A > 0
    result = Objective.of([{"kind": "ppo_clip"}]).whole(
        *batch, Evaluated(logp), {"old": Evaluated(torch.full((3,), -1.0))}
    )
    found = {(m.name, m.label("source")): m.mean for m in result.metrics}
    assert found["clip_frac/high", "left"] == 0.5
    assert found["clip_frac/low", "left"] == 0.5
    assert found["clip_frac/high", "right"] == found["clip_frac/low", "right"] == 0.0
    assert ("ratio", "left") in found


def test_the_entropy_bonus_pays_for_entropy() -> None:
    batch = ready([trajectory([1, 2, 3], forced=[False, False, True])])
    entropy = torch.tensor([1.0, 2.0, math.nan], requires_grad=True)
    objective = Objective.of([{"kind": "entropy", "coef": 0.5}])
    total = objective.whole(*batch, Evaluated(torch.zeros(3), entropy), {}).total
    total.backward()
    assert entropy.grad is not None
    assert float(total.detach()) == pytest.approx(-0.75)
    assert entropy.grad.tolist() == [-0.25, -0.25, 0.0]


def test_components_share_a_batch_and_nothing_else() -> None:
    """Two sampled decisions of RL and three placed ones of imitation: each has its own denominator and term."""
    rows = [trajectory([1, 2], id="a"), trajectory([1, 2, 3], id="b", forced=True, component="expert")]
    terms = ({"kind": "ppo_clip"}, {"kind": "imitation", "coef": 2.0})
    batch = ready(rows)
    assert share(*batch).weight.tolist() == pytest.approx([1 / 2] * 2 + [0.0] * 3)
    assert share(*batch, kind="imitation").weight.tolist() == pytest.approx([0.0] * 2 + [1 / 3] * 3)
    value, gradient = loss(batch, torch.full((5,), -1.0), *terms)
    assert value == pytest.approx(-1.0 + 2.0)
    assert gradient.tolist() == pytest.approx([-1 / 2] * 2 + [-2 / 3] * 3)
    view = Evaluated(torch.full((5,), -1.0))
    parts = Objective.of(terms).whole(*batch, view, {"old": view}).parts
    assert parts == pytest.approx({"ppo_clip": -1.0, "imitation": 1.0})


def test_sequence_means_count_the_sequences_of_a_component() -> None:
    rows = [
        trajectory([1, 2], id="a"),
        trajectory([1], id="b"),
        trajectory([1, 2, 3], id="c", forced=True, component="expert"),
    ]
    sampled, placed = (
        share(*ready(rows), "seq-mean-token-mean", kind=kind).weight for kind in ("ppo_clip", "imitation")
    )
    assert sampled.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 2, 0, 0, 0])
    assert placed.tolist() == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 1 / 3])


def test_a_component_that_no_term_trains_is_an_error() -> None:
    batch = ready([trajectory([1], component="imitaton")])
    with pytest.raises(RecipeError, match="imitaton"):
        loss(batch, torch.zeros(1), {"kind": "ppo_clip"})


def test_one_rollout_may_train_what_was_sampled_and_what_was_placed_apart() -> None:
    given = ready([trajectory([1, 2, 3], forced=[True, False, False])])
    terms = ({"kind": "ppo_clip"}, {"kind": "imitation", "component": "policy"})
    value, gradient = loss(given, torch.full((3,), -1.0), *terms)
    assert value == pytest.approx(-1.0 + 1.0)
    assert gradient.tolist() == pytest.approx([-1.0, -0.5, -0.5])


def test_a_term_has_an_aggregation_and_a_schedule_of_its_own() -> None:
    given = ready([trajectory([1, 2], id="a"), trajectory([1, 2], id="b")])
    coef = {"kind": "linear", "start": 1.0, "end": 0.0}
    term = {"kind": "ppo_clip", "aggregate": "sum-const", "constant": 8, "coef": coef}
    view = Evaluated(torch.full((4,), -1.0))
    objective = Objective.of({"mine": term})
    for step, expected in ((1, 0.75), (4, 0.0)):
        found = objective.whole(*given, view, {"old": view}, progress=Progress(step=step, total_steps=4))
        assert float(found.total) == pytest.approx(-0.5 * expected)
        assert found.parts == pytest.approx({"mine": -0.5})


def test_credit_scales_a_loss_and_no_denominator() -> None:
    batch, credit = ready([trajectory([1, 2])])
    credit.scale = torch.tensor([0.5, 0.0])
    value, gradient = loss((batch, credit), torch.full((2,), -1.0), {"kind": "ppo_clip"})
    assert value == pytest.approx(-0.25)
    assert gradient.tolist() == pytest.approx([-0.25, 0.0])


def test_an_objective_without_terms_or_without_its_constant_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing would be trained"):
        Objective.of([])
    with pytest.raises(RecipeError, match="constant"):
        Objective.of([{"kind": "ppo_clip"}], aggregate="sum-const")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"terms": [{"kind": "ppo_klip"}]}, "terms.ppo_klip: unknown objective term 'ppo_klip'"),
        ({"terms": {"mine": {"kind": "ppo_clip", "clip_low": 2}}}, "terms.mine.clip_low"),
        ({"advantage": {"scale": "none"}}, "advantage: has no kind"),
        ({"preset": "grppo"}, "unknown preset 'grppo'"),
        ({"terms": [{"kind": "value"}]}, "algo.advantage 'group' gives no returns for the term 'value'"),
    ],
)
def test_a_wrong_part_is_an_error_that_names_it(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        Learner(TableFamily(), recipe(algo=options), exact=True)


def test_a_preset_is_overridden_part_by_part() -> None:
    options = {"preset": "grpo", "terms": {"policy": {"clip_high": 0.28}, "entropy": {"kind": "entropy"}}}
    algo = PolicyGradient.model_validate(options)
    assert PolicyGradient.model_validate({"kind": "policy_gradient", **options}) == algo
    assert algo.aggregate == "seq-mean-token-mean"
    terms = algo.parts("terms")
    assert terms["policy"].clip_high == 0.28
    assert terms["policy"].clip_low == 0.2
    assert PolicyGradient.model_validate(algo.model_dump()) == algo
    without = PolicyGradient.model_validate({**algo.model_dump(), "terms": {"entropy": None}})
    assert "entropy" not in without.parts("terms")
    assert PolicyGradient.model_validate(without.model_dump()) == without


def test_a_preset_given_later_replaces_what_was_said_without_it(tmp_path: Path) -> None:
    """`triune train quickstart algo.preset=rloo` means RLOO, not RLOO's shape with the quickstart's advantage."""
    plain = Recipe.load(find_recipe("quickstart"), ("algo.preset=rloo",)).algo
    assert plain == PolicyGradient.model_validate({"preset": "rloo"})
    tuned = Recipe.load(find_recipe("quickstart"), ("algo.preset=rloo", "algo.shape.kl.coef=0.1")).algo
    assert tuned == PolicyGradient.model_validate({"preset": "rloo", "shape": {"kl": {"coef": 0.1}}})
    file = tmp_path / "child.yaml"
    file.write_text(f"base: {find_recipe('quickstart')}\nname: child\nalgo: {{preset: dapo-like}}\n")
    with pytest.raises(RecipeError, match="unknown preset 'dapo-like'"):
        Recipe.load(file)
    file.write_text(f"base: {find_recipe('quickstart')}\nname: child\nalgo: {{preset: gspo}}\n")
    assert Recipe.load(file).algo == PolicyGradient.model_validate({"preset": "gspo"})
    assert Recipe.load(file, ("algo.preset=rloo",)).algo == plain
    assert Recipe.model_validate(Recipe.load(file).dump()) == Recipe.load(file)
