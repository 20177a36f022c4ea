"""The examples that the documentation gives to authors of estimators and terms are run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from triune.algo.objective import Objective
from triune.algo.options import ADVANTAGES, SHAPES, TERMS, Options, TermOptions
from triune.algo.terms.policy import PolicyTerm
from triune.algo.types import Evaluated
from triune.testing.table import batch_of, trajectory

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/objectives.md").read_text()
VECTORS = json.loads((ROOT / "tests/golden/objective_vectors.json").read_text())


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for registry in (ADVANTAGES, TERMS):
        list(registry)  # what is imported later would be registered in the copy, and gone with it
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    names: dict[str, Any] = {"__name__": "example"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/objectives.md", "exec", dont_inherit=True), names)
    return names


def test_the_estimator_computes_what_it_says(examples: dict[str, Any]) -> None:
    rows = [trajectory([1], id=f"{i}", group="a") for i in range(4)] + [trajectory([1], id="b", group="b")]
    batch, rewards = batch_of(rows, [0.0, 1.0, 9.0, None, 1.0])
    credit = ADVANTAGES["median"]()(batch, rewards, {})
    assert credit.advantage.tolist() == [-1.0, 0.0, 8.0, 0.0, 0.0]
    assert credit.degenerate.tolist() == [False, True]
    assert credit.in_loss.tolist() == [True, True, True, False, True]


def test_the_term_has_the_gradient_that_it_says(examples: dict[str, Any]) -> None:
    table = VECTORS["batches"]["B1"]
    mask = torch.tensor(table["response_mask"]).bool()
    rows = [trajectory([1] * int(m.sum()), id=f"{i}") for i, m in enumerate(mask)]
    batch, rewards = batch_of(rows, table["rewards"])
    credit = ADVANTAGES["group"]()(batch, rewards, {})
    credit.advantage = credit.advantage.double()
    old = torch.tensor(table["old_logp"], dtype=torch.float64)[mask]
    logp = torch.tensor(table["logp"], dtype=torch.float64)[mask].requires_grad_()
    objective = Objective.of({"policy": {"kind": "simple_po", "bound": 0.1}})
    objective.whole(batch, credit, Evaluated(logp), {"old": Evaluated(old)}).total.backward()
    ratio = (logp.detach() - old).exp()
    weight = ratio * (1 - credit.advantage.sign() * (ratio - 1) / 0.1)
    assert logp.grad is not None
    assert torch.allclose(logp.grad, -weight * credit.advantage / 10, atol=1e-7)


def test_every_plug_in_and_parameter_is_documented() -> None:
    for registry in (ADVANTAGES, SHAPES, TERMS):
        for name in registry:
            (row,) = re.findall(rf"(?m)^\| `{name}` \|.*$", PAGE) or pytest.fail(
                f"docs/objectives.md has no row for {name}"
            )
            options: type[Options] = registry[name]
            base = next((known for known in ("group", "gae") if name == f"shuffled_{known}"), None)
            # What all terms, or all policy terms, have is explained once.
            shared = PolicyTerm if issubclass(options, PolicyTerm) else TermOptions
            for field in set(options.model_fields) - set(shared.model_fields) - {"kind"}:
                assert f"`{field}`" in row or (base and f"as `{base}`" in row), f"{name}.{field}"
