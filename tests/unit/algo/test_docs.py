"""The examples that the documentation gives to authors of estimators and terms are run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from triune.algo.objective import Objective
from triune.algo.options import ADVANTAGES, TERMS, Options
from triune.algo.types import Evaluated
from triune.testing.table import batch_of, trajectory

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/objectives.md").read_text()
VECTORS = json.loads((ROOT / "tests/golden/objective_vectors.json").read_text())


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for registry in (ADVANTAGES, TERMS):
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    names: dict[str, Any] = {"__name__": "example"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/objectives.md", "exec", dont_inherit=True), names)
    return names


def test_the_examples_compute_what_they_say(examples: dict[str, Any]) -> None:
    table = VECTORS["batches"]["B1"]
    mask = torch.tensor(table["response_mask"]).bool()
    rows = [trajectory([1] * int(m.sum()), id=f"{i}") for i, m in enumerate(mask)]
    batch, rewards = batch_of([*rows, trajectory([1], id="lost")], [*table["rewards"], None])
    credit = ADVANTAGES["rloo"]()(batch, rewards, {})
    expected = next(case for case in VECTORS["cases"] if case["id"] == "adv.rloo")["expected"]["advantages"]
    assert credit.advantage.tolist() == pytest.approx(
        [expected[i] if i < 4 else 0.0 for i in batch.trajectory.tolist()]
    )
    logp = torch.tensor([*torch.tensor(table["logp"])[mask].tolist(), -1.0]).requires_grad_()
    total = Objective.of([{"kind": "reinforce"}]).whole(batch, credit, Evaluated(logp), {}).total
    total.backward()
    # The golden REINFORCE loss is a sum over tokens, a mean over the four sequences.
    assert float(total.detach()) * 10 / 4 == pytest.approx(0.609667, abs=1e-6)
    assert logp.grad is not None
    assert torch.allclose(logp.grad, -credit.advantage / 10)


def test_every_plug_in_and_parameter_is_documented() -> None:
    for registry in (ADVANTAGES, TERMS):
        for name in registry:
            (row,) = re.findall(rf"(?m)^\| `{name}` \|.*$", PAGE) or pytest.fail(
                f"docs/objectives.md has no row for {name}"
            )
            options: type[Options] = registry[name]
            base = next((known for known in ("group", "gae") if name == f"shuffled_{known}"), None)
            for field in set(options.model_fields) - {"kind", "coef", "component", "aggregate", "constant"}:
                assert f"`{field}`" in row or (base and f"as `{base}`" in row), f"{name}.{field}"
