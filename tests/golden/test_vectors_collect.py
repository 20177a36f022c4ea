"""Gates on groups against the golden numbers (`objective_vectors.json`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from triune.algo.options import PolicyGradient
from triune.core.schedule import Progress
from triune.testing.table import scored, trajectory

VECTORS = json.loads((Path(__file__).parent / "objective_vectors.json").read_text())
CASES = [case for case in VECTORS["cases"] if case["id"].startswith("gate.dynamic_sampling")]


def kept(groups: list[list[float]], options: dict[str, Any]) -> list[bool]:
    """Which groups a recipe's collector keeps, of rollouts with these values of the main check."""
    collect = {"dynamic": {"kind": "dynamic_sampling", "max_batches": 1, **options}}
    (part,) = PolicyGradient.model_validate({"collect": collect}).parts("collect").values()
    rows = [
        scored(trajectory(id=f"{g}/{i}", group=f"{g}", sample=f"{g}"), float(value))
        for g, values in enumerate(groups)
        for i, value in enumerate(values)
    ]
    found, _ = part.select(rows, list, Progress(step=1, total_steps=1))
    names = {one.trajectory.group for one in found}
    return [f"{g}" in names for g in range(len(groups))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_groups_that_are_kept(case: dict[str, Any]) -> None:
    metric = {"acc": "accuracy", "accuracy": "accuracy", "reward": "reward", "score": "reward"}[
        case["params"]["metric"]
    ]
    found = kept(case["inputs"]["group_metrics"], {"metric": metric})
    assert found == case["expected"]["keep"]


@pytest.mark.parametrize(
    ("groups", "options", "expected"),
    [
        ([[1], [0], [1, 1]], {}, [True, True, False]),  # by hand: verl keeps a prompt with one rollout
        ([[0.7] * 8, [0.1] * 3 + [0.1 + 1e-12]], {}, [False, False]),  # rounding is no difference
        ([[0, 0.02], [0.01], [0.99, 0.98], [1, 0.98], [0.5]], {"band": (0.01, 0.99)}, [False, False, True, False, True]),
    ],
)  # fmt: skip
def test_the_same_by_hand(groups: list[list[float]], options: dict[str, Any], expected: list[bool]) -> None:
    assert kept(groups, options) == expected
