"""Golden numbers of the critic: GAE as verl computes it, the clipped value loss, and the policy loss between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from triune.algo.objective import Objective
from triune.algo.options import PolicyGradient
from triune.algo.types import Credit, Evaluated
from triune.testing.table import batch_of, trajectory

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "objective_vectors.json").read_text())
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in VECTORS["cases"]}
GAE = [name for name, case in CASES.items() if case["params"].get("estimator") == "gae"]
VALUE = [name for name, case in CASES.items() if case["kind"] == "value_loss"]


class Table:
    """A golden batch, one decision and one read-out per token, and flat vectors of its tables."""

    def __init__(self, name: str) -> None:
        self.table = VECTORS["batches"][name]
        self.mask = torch.tensor(self.table["response_mask"]).bool()
        rows = [
            trajectory([1] * int(row.sum()), id=f"{i}", turn=list(range(int(row.sum()))), group=str(group))
            for i, (row, group) in enumerate(zip(self.mask, self.table["group"], strict=True))
        ]
        self.batch, self.rewards = batch_of(rows, self.table["rewards"])
        self.batch.value_trajectory, self.batch.value_turn = self.batch.trajectory, self.batch.turn

    def flat(self, name: str) -> Tensor:
        return self.of(self.table[name])

    def of(self, table: list[list[float]]) -> Tensor:
        return torch.tensor(table, dtype=torch.float64)[self.mask]

    @property
    def old(self) -> Evaluated:
        return Evaluated(self.flat("old_logp"), value=self.flat("values_old"))

    def credit(self, case: str, *, whiten: bool = True) -> Credit:
        params = CASES[case]["params"]
        algo = PolicyGradient.model_validate(
            {
                "preset": "ppo",
                "advantage": {
                    "gamma": params["gamma"],
                    "lam": params["lam"],
                    "whiten_eps": params["whiten_eps"],
                    "whiten": whiten,
                },
            }
        )
        found: Credit = algo.estimator()(self.batch, self.rewards, {"old": self.old})
        return found


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", GAE)
def test_generalised_advantages(name: str) -> None:
    table, expected = Table(CASES[name]["batch"]), CASES[name]["expected"]
    raw = table.credit(name, whiten=False)
    assert raw.returns is not None
    close(raw.advantage, table.of(expected["token_advantages_raw"]))
    close(raw.returns, table.of(expected["token_returns"]))
    whitened = table.credit(name)
    assert whitened.returns is not None
    close(whitened.advantage, table.of(expected["token_advantages"]))
    close(whitened.returns, table.of(expected["token_returns"]))


@pytest.mark.parametrize("name", VALUE)
def test_the_value_loss_and_its_gradient(name: str) -> None:
    case, params = CASES[name], CASES[name]["params"]
    table = Table(case["batch"])
    value, logp = table.flat("values_new").requires_grad_(), table.flat("logp").requires_grad_()
    objective = Objective.of(
        {
            "value": {
                "kind": "value",
                "coef": 1.0,
                "clip": params["cliprange_value"],
                "aggregate": params["agg"],
            }
        }
    )
    credit = table.credit(params["returns"])
    loss = objective.whole(table.batch, credit, Evaluated(logp, value=value), {"old": table.old})
    loss.total.backward()
    assert value.grad is not None
    close(loss.total.detach(), torch.tensor(case["expected"]["loss"]))
    close(value.grad, table.of(case["expected"]["grad_values"]))


def test_the_policy_loss_of_ppo() -> None:
    case = CASES["loss.ppo_gae.policy"]
    params, table = case["params"], Table(case["batch"])
    algo = PolicyGradient.model_validate(
        {"preset": "ppo", "terms": {"value": None, "policy": {"dual": params["dual_clip"]}}}
    )
    logp = table.flat("logp").requires_grad_()
    credit = table.credit(params["adv"])
    loss = Objective(algo).whole(table.batch, credit, Evaluated(logp), {"old": table.old})
    loss.total.backward()
    assert logp.grad is not None
    close(loss.total.detach(), torch.tensor(case["expected"]["loss"]))
    close(logp.grad, table.of(case["expected"]["grad_logp"]))
