"""Advantages, losses and gradients against numbers of an independent float64 implementation, most of which were also
reproduced with verl's own functions (`objective_vectors.json`; a response is a row, its tokens are decisions)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from triune.algo.objective import Objective
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.testing.table import batch_of, trajectory

VECTORS = json.loads((Path(__file__).parent / "objective_vectors.json").read_text())
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in VECTORS["cases"]}
ATOL = VECTORS["tolerance"]["atol"]
PPO = {"adv", "clip", "eps_low", "eps_high", "dual_clip", "agg"}
"""What the clipped surrogate alone is told (and a constant, perhaps); a case with more is about other terms too."""
GROUP = {"adv.grpo.eps1e-6": {}, "adv.grpo.eps1e-4": {"eps": 1e-4}, "adv.drgrpo": {"scale": "none"}}


def close(actual: Tensor, expected: Any) -> bool:
    return torch.allclose(actual.double(), torch.tensor(expected, dtype=torch.float64), atol=ATOL, rtol=ATOL)


class Table:
    """One batch of the file: masked tokens do not exist, every token is a turn (so that values are read before each)."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.table, self.mask = table, torch.tensor(table["response_mask"]).bool()
        rows = []
        for index, mask in enumerate(self.mask):
            size = int(mask.sum())
            old = table["old_logp"][index][:size] if "old_logp" in table else [-1.0] * size
            group = str(table["group"][index])
            rows.append(trajectory([1] * size, id=f"{index}", logp=old, turn=list(range(size)), group=group))
        self.batch, self.rewards = batch_of(rows, table["rewards"])
        self.batch.value_trajectory, self.batch.value_turn = self.batch.trajectory, self.batch.turn

    def flat(self, name: str) -> Tensor:
        return torch.tensor(self.table[name], dtype=torch.float64)[self.mask]

    def credit(self, estimator: str) -> Credit:
        params = CASES[estimator]["params"]
        if params["estimator"] == "gae":
            options = {"kind": "gae", "gamma": params["gamma"], "lam": params["lam"]}
            old = Evaluated(self.flat("old_logp"), value=self.flat("values_old"))
        else:
            options, old = {"kind": "group", **GROUP[estimator]}, Evaluated(self.batch.logp_behavior)
        found: Credit = ADVANTAGES[options["kind"]].model_validate(options)(
            self.batch, self.rewards, {"old": old}
        )
        return found


@pytest.fixture
def b1() -> Table:
    return Table(VECTORS["batches"]["B1"])


@pytest.mark.parametrize("name", GROUP)
def test_group_relative_advantages(b1: Table, name: str) -> None:
    expected = torch.tensor(CASES[name]["expected"]["advantages"])[b1.batch.trajectory]
    assert close(b1.credit(name).advantage, expected.tolist())


def test_leave_one_out_is_the_centred_advantage_scaled(b1: Table) -> None:
    expected = torch.tensor(CASES["adv.rloo"]["expected"]["advantages"])[b1.batch.trajectory]
    assert close(b1.credit("adv.drgrpo").advantage * 4 / 3, expected.tolist())


def test_a_group_without_variance_is_exactly_zero_and_marked() -> None:
    case = CASES["adv.grpo.zero_std_group"]
    table = Table(VECTORS["batches"]["B2"])
    credit = table.credit("adv.grpo.eps1e-6")
    expected = torch.tensor(case["expected"]["advantages"])[table.batch.trajectory]
    assert close(credit.advantage, expected.tolist())
    assert credit.degenerate.tolist() == case["expected"]["degenerate_group"]
    assert credit.advantage[expected == 0].tolist() == [0.0] * int((expected == 0).sum())


@pytest.mark.parametrize("name", ["adv.gae.g1.0.l1.0", "adv.gae.g1.0.l0.95"])
def test_gae(b1: Table, name: str) -> None:
    expected = {key: torch.tensor(value)[b1.mask].tolist() for key, value in CASES[name]["expected"].items()}
    params = CASES[name]["params"]
    old = Evaluated(b1.flat("old_logp"), value=b1.flat("values_old"))
    raw = ADVANTAGES["gae"](gamma=params["gamma"], lam=params["lam"], whiten=False)(
        b1.batch, b1.rewards, {"old": old}
    )
    assert close(raw.advantage, expected["token_advantages_raw"])
    assert close(raw.returns, expected["token_returns"])
    assert close(b1.credit(name).advantage, expected["token_advantages"])


@pytest.mark.parametrize("name", ["loss.value_clip.0.5", "loss.value_clip.0.2"])
def test_value_loss_and_its_gradient(b1: Table, name: str) -> None:
    case, batch = CASES[name], b1.batch
    credit = b1.credit(case["params"]["returns"])
    value = b1.flat("values_new").requires_grad_()
    logp = b1.flat("logp").requires_grad_()
    objective = Objective.of([{"kind": "value", "coef": 1.0, "clip": case["params"]["cliprange_value"]}])
    old = Evaluated(b1.flat("old_logp"), value=b1.flat("values_old"))
    total = objective.whole(batch, credit, Evaluated(logp, value=value), {"old": old}).total
    total.backward()
    assert value.grad is not None
    assert close(total.detach(), case["expected"]["loss"])
    assert close(value.grad, torch.tensor(case["expected"]["grad_values"])[b1.mask].tolist())


def everything_counts(batch: Batch, advantage: Tensor) -> Credit:
    ones = torch.ones(len(batch.trajectories), dtype=torch.bool)
    return Credit(advantage, ones, ones, [""] * len(ones), torch.zeros(1, dtype=torch.bool))


def test_a_group_of_one_gives_nothing() -> None:
    case = CASES["edge.singleton_group"]
    batch, said = batch_of([trajectory(id="0")], case["inputs"]["rewards"])
    credit = ADVANTAGES["group"]()(batch, said, {})
    assert credit.advantage.tolist() == case["expected"]["policy_zero"] * 2
    assert credit.degenerate.tolist() == [True]


def test_equal_rewards_give_exact_zeros_where_float32_gives_noise() -> None:
    case = CASES["edge.fp32_zero_variance"]
    rewards = torch.tensor(case["inputs"]["rewards"], dtype=torch.float32)
    batch, _ = batch_of([trajectory([1], id=f"{i}") for i in range(8)], [0.7] * 8)
    credit = ADVANTAGES["group"]()(batch, Rewards(rewards.double(), rewards), {})
    assert credit.advantage.tolist() == case["expected"]["advantages"]


def test_imitation_is_the_mean_over_placed_tokens() -> None:
    case = CASES["expert.sft"]
    mask = torch.tensor(case["inputs"]["mask"]).bool()
    made = [
        trajectory([1] * int(row.sum()), id=f"{i}", forced=True, component="expert")
        for i, row in enumerate(mask)
    ]
    batch, _ = batch_of(made, [None] * len(made))
    credit = everything_counts(batch, torch.zeros(batch.num_decisions))
    logp = torch.tensor(case["inputs"]["logp"])[mask].requires_grad_()
    total = Objective.of([{"kind": "imitation"}]).whole(batch, credit, Evaluated(logp), {}).total
    total.backward()
    assert logp.grad is not None
    assert close(total.detach(), case["expected"]["loss"])
    assert close(logp.grad, torch.tensor(case["expected"]["grad_logp"])[mask].tolist())
