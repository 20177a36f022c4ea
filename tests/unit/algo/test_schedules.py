"""Coefficients as pure schedules: every term takes one, and what counts is its value at the step, wherever a run began."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from triune.algo.options import TERMS
from triune.core.schedule import Progress
from triune.testing.table import TableFamily, recipe, scored, trajectory
from triune.train.learner import Learner

ADAPTIVE = {"entropy_control"}
"""Terms whose coefficient is a controller's: it follows what it measures, and keeps a state instead."""


@pytest.mark.parametrize("kind", sorted(set(TERMS) - ADAPTIVE))
def test_a_coefficient_may_be_a_schedule(kind: str) -> None:
    annotation = str(TERMS[kind].model_fields["coef"].annotation)
    assert all(name in annotation for name in ("float", "Steps", "Linear", "Cosine")), annotation


@pytest.mark.parametrize(
    ("schedule", "step", "value"),
    [
        ({"kind": "linear", "start": 0.0, "end": 1.0}, 4, 0.4),
        ({"kind": "linear", "start": 0.0, "end": 1.0}, 10, 1.0),
        ({"kind": "cosine", "start": 1.0, "end": 0.0}, 5, 0.5),
        ({"kind": "steps", "table": [[2, 0.0], [3, 0.7]], "unit": "step"}, 2, 0.0),
        ({"kind": "steps", "table": [[2, 0.0], [3, 0.7]], "unit": "step"}, 9, 0.7),
    ],
)
def test_the_gradient_is_scaled_by_what_the_schedule_says(
    schedule: dict[str, Any], step: int, value: float
) -> None:
    """A learner that begins at this step, as a resumed one does."""

    def gradient(coef: Any) -> torch.Tensor:
        algo = {"terms": {"policy": {"kind": "reinforce", "coef": coef}}}
        train = {"lr": 0.1, "warmup_fraction": 0.0, "clip_norm": 1e9}
        plan = recipe(algo=algo, optimizer=train)
        learner = Learner(TableFamily(), plan, True)
        found: list[torch.Tensor] = []
        weight = learner.family.table.weight  # type: ignore[attr-defined]
        learner.optimizer.adamw.register_step_pre_hook(
            lambda *_: found.append(weight.grad.clone() if weight.grad is not None else torch.zeros(5, 5))
        )
        family = TableFamily()
        rows = [scored(trajectory([i, 1], id=f"t{i}", family=family), float(i)) for i in range(3)]
        learner.step(lambda: rows, plan, Progress(step=step, total_steps=10))
        return found[0]

    full = gradient(1.0)
    assert float(full.abs().max()) > 0.01
    assert torch.allclose(gradient(schedule), value * full, atol=1e-7)
