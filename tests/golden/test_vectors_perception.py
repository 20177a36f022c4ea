"""PAPO's update as its preset describes it, against the numbers of an independent float64 implementation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from triune.algo.objective import Objective
from triune.algo.options import PolicyGradient
from triune.algo.types import Evaluated
from triune.core.schedule import Progress
from triune.testing.table import batch_of, trajectory

VECTORS = json.loads((Path(__file__).parent / "objective_vectors.json").read_text())
CASE = next(case for case in VECTORS["cases"] if case["id"] == "loss.papo")
B1 = VECTORS["batches"]["B1"]
MASK = torch.tensor(B1["response_mask"]).bool()


def flat(table: Any) -> Tensor:
    return torch.tensor(table, dtype=torch.float64)[MASK]


@pytest.mark.parametrize("pieces", [1, 4])
def test_the_preset_is_the_published_update(pieces: int) -> None:
    """Also as a sum over rollouts that are looked at one by one."""
    algo = PolicyGradient(preset="papo")
    rows = [trajectory([1] * int(mask.sum()), id=f"{i}", media=["x"]) for i, mask in enumerate(MASK)]
    batch, rewards = batch_of(rows, B1["rewards"])
    views = {
        "old": Evaluated(flat(B1["old_logp"])),
        "reference": Evaluated(flat(B1["ref_logp"])),
        "masked": Evaluated(flat(CASE["inputs"]["aug_logp"])),
    }
    credit = algo.estimator()(batch, rewards, views)
    logp = flat(B1["logp"]).requires_grad_()
    objective, total = Objective(algo), torch.zeros((), dtype=torch.float64)
    if pieces == 1:
        total = objective.whole(batch, credit, Evaluated(logp), views, rewards).total
    else:
        whole = objective.shares(batch, credit, rewards)
        for row in range(len(rows)):
            found = {name: _only(share, batch.trajectory == row) for name, share in whole.items()}
            batch.advantage = credit.advantage
            total = (
                total + objective(batch, Evaluated(logp), views, found, Progress(step=1, total_steps=1)).total
            )
    total.backward()
    assert logp.grad is not None
    assert float(total.detach()) == pytest.approx(CASE["expected"]["loss"], abs=1e-6)
    assert torch.allclose(logp.grad, flat(CASE["expected"]["grad_logp"]), **VECTORS["tolerance"])


def _only(share: Any, mine: Tensor) -> Any:
    return replace(share, live=share.live & mine, weight=torch.where(mine, share.weight, 0.0))


def test_the_divergence_and_its_gradient_are_papos() -> None:
    """x = clamp(masked - real, -20, 20); D = clamp(exp(x) - x - 1, -10, 10), worked out beside it."""
    batch, rewards = batch_of([trajectory([1, 1, 1, 1])], [1.0])
    real = torch.tensor([-0.7, -30.0, -0.1, -2.0], dtype=torch.float64).requires_grad_()
    masked = torch.tensor([-1.4, -0.5, -29.0, -1.0], dtype=torch.float64)
    x = (masked - real).clamp(-20, 20)
    expected = -0.01 * (x.exp() - x - 1).clamp(-10, 10).mean()
    algo = PolicyGradient(preset="papo", terms={"policy": None, "kl": None})
    credit = algo.estimator()(batch, rewards, {})
    total = (
        Objective(algo).whole(batch, credit, Evaluated(real), {"masked": Evaluated(masked)}, rewards).total
    )
    for value, wanted in zip(
        torch.autograd.grad(total, real), torch.autograd.grad(expected, real), strict=True
    ):
        assert torch.allclose(value, wanted, atol=1e-9)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
