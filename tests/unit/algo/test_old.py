"""The policy before the step: it is evaluated where a part asks for it, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from triune.algo import preset
from triune.algo.objective import Objective
from triune.algo.shown import show
from triune.algo.types import Batch, Credit, Evaluated
from triune.core.schedule import Progress
from triune.testing.table import TableFamily, recipe, scored, trajectory
from triune.train.learner import Learner

PROGRESS = Progress(step=1, total_steps=10)
BYPASS = {"kind": "ppo_clip", "against": "behavior"}


def passes(exact: bool, **algo: Any) -> int:
    """Evaluations of one micro-batch in a step, the trained one included."""
    rows = [scored(trajectory([i], id=str(i), group="g"), float(i)) for i in range(2)]
    family = TableFamily()
    plan = recipe(algo=algo)
    learner = Learner(family, plan, exact)
    family.evaluations = 0
    learner.step(lambda: rows, plan, PROGRESS)
    assert family.evaluations == learner.views.passes + 1
    return family.evaluations


@pytest.mark.parametrize(
    ("algo", "exact", "inexact"),
    [
        ({"terms": [{"kind": "ppo_clip"}]}, 1, 2),
        ({"terms": [BYPASS]}, 1, 1),
        ({"preset": "topr"}, 1, 1),
        ({"preset": "dppo"}, 1, 1),
        ({"terms": [BYPASS], "adjust": {"cov": {"kind": "clip_cov"}}}, 1, 2),
        ({"terms": [BYPASS], "adjust": {"top": {"kind": "top_entropy", "share": 0.5}}}, 2, 2),
    ],
)
def test_no_pass_is_spent_on_an_old_policy_that_nothing_is_compared_with(
    algo: dict[str, Any], exact: int, inexact: int
) -> None:
    assert (passes(True, **algo), passes(False, **algo)) == (exact, inexact)


def test_a_preset_that_needs_no_old_policy_promises_no_pass_of_it() -> None:
    assert "one more for `old`" not in show(preset.load("topr"))
    assert "one more for `old`" in show(preset.load("grpo"))


def test_imitation_is_the_policy_gradient_with_itself_as_reference_and_an_advantage_of_one() -> None:
    """1 / sg[pi] * 1 * grad pi: of the same tokens, placed or sampled, the same gradient."""
    logp = torch.tensor([-0.3, -2.0, -7.0, -0.01], dtype=torch.float64)
    found = []
    for term, forced in (("imitation", True), ("reinforce", False), ("ppo_clip", False)):
        rows = [trajectory([1] * size, id=str(size), forced=forced, component="it") for size in (3, 1)]
        batch, ones = Batch.of(rows, None), torch.ones(2, dtype=torch.bool)
        credit = Credit(torch.ones(4), ones, ones, ["", ""], ~ones)
        now = logp.clone().requires_grad_()
        objective = Objective.of([{"kind": term, "component": "it"}], aggregate="seq-mean-token-mean")
        objective.whole(batch, credit, Evaluated(now), {"old": Evaluated(logp)}).total.backward()
        assert now.grad is not None
        found.append(now.grad)
    for other in found[1:]:
        assert torch.allclose(found[0], other, rtol=0, atol=1e-9)
