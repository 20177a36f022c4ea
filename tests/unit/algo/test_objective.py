from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from triune.algo.objective import Objective
from triune.algo.types import Batch, Credit, Evaluated
from triune.algo.weights import token_weights
from triune.core.errors import RecipeError
from triune.core.trajectory import Trajectory
from triune.testing.table import trajectory


def ready(rows: list[Trajectory], advantage: float = 1.0, placed: frozenset[str] = frozenset()) -> Batch:
    """A batch with one advantage for all and token-mean weights."""
    batch = Batch.of(rows, None)
    ones = torch.ones(len(rows), dtype=torch.bool)
    batch.advantage = torch.full((batch.num_decisions,), advantage)
    credit = Credit(batch.advantage, ones, ones, [""] * len(rows), torch.zeros(1, dtype=torch.bool))
    batch.weight = token_weights(batch, credit, "token-mean", placed=placed)
    return batch


def loss(
    batch: Batch, logp: torch.Tensor, *terms: dict[str, Any], old: float = -1.0
) -> tuple[float, torch.Tensor]:
    logp = logp.clone().requires_grad_()
    views = {"old": Evaluated(torch.full_like(logp, old).detach())}
    total = Objective(terms)(batch, Evaluated(logp), views).total
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
    result = Objective([{"kind": "ppo_clip"}])(
        batch, Evaluated(torch.tensor([99.0, -1.0])), {"old": Evaluated(torch.tensor([-1.0, -1.0]))}
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
    batch.advantage = torch.tensor([1.0, -1.0, 1.0])
    logp = torch.tensor([-0.5, -1.5, -1.5])  # up with A > 0, down with A < 0, down with A > 0
    result = Objective([{"kind": "ppo_clip"}])(
        batch, Evaluated(logp), {"old": Evaluated(torch.full((3,), -1.0))}
    )
    found = {(m.name, m.label("source")): m.mean for m in result.metrics}
    assert found["clip_frac/high", "left"] == 0.5
    assert found["clip_frac/low", "left"] == 0.5
    assert found["clip_frac/high", "right"] == found["clip_frac/low", "right"] == 0.0
    assert ("ratio", "left") in found


def test_the_entropy_bonus_pays_for_entropy() -> None:
    batch = ready([trajectory([1, 2, 3], forced=[False, False, True])])
    entropy = torch.tensor([1.0, 2.0, math.nan], requires_grad=True)
    objective = Objective([{"kind": "entropy", "coef": 0.5}])
    total = objective(batch, Evaluated(torch.zeros(3), entropy), {}).total
    total.backward()
    assert entropy.grad is not None
    assert float(total.detach()) == pytest.approx(-0.75)
    assert entropy.grad.tolist() == [-0.25, -0.25, 0.0]


def test_components_share_a_batch_and_nothing_else() -> None:
    """Two sampled decisions of RL and three placed ones of imitation: each has its own denominator and term."""
    rows = [trajectory([1, 2], id="a"), trajectory([1, 2, 3], id="b", forced=True, component="imitation")]
    terms = ({"kind": "ppo_clip"}, {"kind": "imitation", "coef": 2.0})
    batch = ready(rows, placed=Objective(terms).placed)
    assert batch.weight is not None
    assert batch.weight.tolist() == pytest.approx([1 / 2] * 2 + [1 / 3] * 3)
    value, gradient = loss(batch, torch.full((5,), -1.0), *terms)
    assert value == pytest.approx(-1.0 + 2.0)
    assert gradient.tolist() == pytest.approx([-1 / 2] * 2 + [-2 / 3] * 3)
    parts = Objective(terms)(
        batch, Evaluated(torch.full((5,), -1.0)), {"old": Evaluated(torch.full((5,), -1.0))}
    ).parts
    assert parts == pytest.approx({"ppo_clip": -1.0, "imitation/imitation": 1.0})


def test_sequence_means_count_the_sequences_of_a_component() -> None:
    rows = [
        trajectory([1, 2], id="a"),
        trajectory([1], id="b"),
        trajectory([1, 2, 3], id="c", forced=True, component="imitation"),
    ]
    batch, ones = Batch.of(rows, None), torch.ones(3, dtype=torch.bool)
    credit = Credit(torch.zeros(6), ones, ones, [""] * 3, torch.zeros(1, dtype=torch.bool))
    weight = token_weights(batch, credit, "seq-mean-token-mean", placed={"imitation"})
    assert weight.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 2, 1 / 3, 1 / 3, 1 / 3])


def test_a_component_that_no_term_trains_is_an_error() -> None:
    batch = ready([trajectory([1], component="imitaton")])
    with pytest.raises(RecipeError, match="imitaton"):
        loss(batch, torch.zeros(1), {"kind": "ppo_clip"})


def test_a_component_trains_what_was_sampled_or_what_was_placed() -> None:
    with pytest.raises(RecipeError, match="component of their own"):
        Objective([{"kind": "ppo_clip"}, {"kind": "imitation", "component": "policy"}])


def test_what_a_term_needs_must_be_provided() -> None:
    objective = Objective([{"kind": "ppo_clip"}, {"kind": "entropy"}])
    objective.check(frozenset({"entropy"}))
    with pytest.raises(RecipeError, match=r"needs \['entropy', 'value'\]"):
        objective.check(frozenset({"energy"}), extra=frozenset({"value"}))
    with pytest.raises(RecipeError, match="nothing would be trained"):
        Objective([])
