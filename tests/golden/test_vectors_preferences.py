"""Preference losses and their gradients against an independent float64 implementation (`objective_vectors.json`): loss, loss
per pair, and the gradient with respect to the log-prob of each answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from triune.algo.objective import Objective
from triune.algo.types import Credit, Evaluated
from triune.testing.table import batch_of, trajectory

VECTORS = json.loads((Path(__file__).parent / "objective_vectors.json").read_text())
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in VECTORS["cases"] if case["kind"] == "preference_loss"
}
ATOL = VECTORS["tolerance"]["atol"]


def terms(params: dict[str, Any]) -> list[dict[str, Any]]:
    """The terms of a recipe that a case stands for."""
    beta = {"beta": params["beta"]}
    sign = {"+": "online", "-": "offline"}
    match params["loss"]:
        case "dpo" if "label_smoothing" in params:
            return [{"kind": "cdpo", **beta, "label_smoothing": params["label_smoothing"]}]
        case "ipo":
            return [{"kind": "ipo", **beta, "per": "token" if params["length_normalized"] else "answer"}]
        case "rpo":
            return [{"kind": "dpo", **beta}, {"kind": "chosen_nll", **beta, "coef": params["eta"]}]
        case "vpo":
            side = {"sign": sign[params["sign"]], "calibration": params["cal"]}
            return [{"kind": "dpo", **beta}, {"kind": "vpo", **beta, "alpha": params["alpha"], **side}]
        case "sppo_hard":
            return [{"kind": "sppo", **beta}]
        case "opa_dpo_anchor":
            return [{"kind": "preference_anchor", **beta, "anchor": params["anchor"]}]
        case other:
            return [{"kind": other, **beta}]


def loss_and_gradient(
    chosen: list[dict[str, Any]],
    inputs: dict[str, list[float]],
    pairs: list[int],
    judged: tuple[float, float] = (1.0, 0.0),
) -> tuple[float, list[float], list[float]]:
    """Every answer is a row of as many tokens as it is long, its log-prob spread over them: the gradient of a token is that of
    the answer. Returns the loss and the gradients of chosen and rejected answers."""
    rows, now, before = [], [], list[float]()
    for pair in pairs:
        for rank, side in enumerate(("chosen", "rejected")):
            size = int(inputs[f"{side}_len"][pair])
            rows.append(trajectory([1] * size, id=f"{pair}{side}", group=str(pair), rank=rank))
            now += [inputs[f"policy_{side}_logps"][pair] / size] * size
            before += [inputs[f"ref_{side}_logps"][pair] / size] * size
    batch, rewards = batch_of(rows, [*judged] * len(pairs))
    count = torch.ones(len(rows), dtype=torch.bool)
    credit = Credit(torch.zeros(batch.num_decisions), count, count, [""] * len(rows), count[: len(pairs)])
    logp = torch.tensor(now, dtype=torch.float64, requires_grad=True)
    reference = Evaluated(torch.tensor(before, dtype=torch.float64))
    found = Objective.of(chosen).whole(
        batch, credit, Evaluated(logp), {"reference": reference, "old": reference}, rewards
    )
    found.total.backward()
    assert logp.grad is not None
    tokens = [logp.grad[batch.trajectory == row] for row in range(len(rows))]
    assert all(bool((one == one[0]).all()) for one in tokens)
    firsts = [float(one[0]) for one in tokens]
    return float(found.total.detach()), firsts[0::2], firsts[1::2]


def close(actual: Any, expected: Any) -> bool:
    def tensor(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64)

    return torch.allclose(tensor(actual), tensor(expected), atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize("name", CASES)
def test_preference_loss_and_its_gradients(name: str) -> None:
    case = CASES[name]
    expected, chosen = case["expected"], terms(case["params"])
    loss, winners, losers = loss_and_gradient(chosen, case["inputs"], [0, 1])
    assert close(loss, expected["loss"])
    assert close(winners, expected["grad_chosen"])
    assert close(losers, expected["grad_rejected"])
    alone = [loss_and_gradient(chosen, case["inputs"], [pair])[0] for pair in (0, 1)]
    assert close(alone, expected["per_pair_loss"])


@pytest.mark.parametrize(
    ("chosen", "loss"),
    [  # further forms at the same inputs, worked out by hand from the equations
        ([{"kind": "ipo", "per": "answer"}], 30.37),
        (
            [
                {"kind": "dpo"},
                {"kind": "vpo", "alpha": 0.01, "sign": "offline", "calibration": "chosen"},
            ],
            0.7151083017,
        ),
        (
            [{"kind": "dpo"}, {"kind": "chosen_nll", "coef": 0.005, "per": "token"}],
            0.7148583017 + 0.005 * (2.5 + 2.4) / 2,
        ),
        ([{"kind": "copg", "beta": 0.5}], -(0.7 - 0.25 * 0.49 - 1.5 - 0.25 * 2.25) / 2),
    ],
)
def test_further_forms(chosen: list[dict[str, Any]], loss: float) -> None:
    assert close(loss_and_gradient(chosen, CASES["pref.dpo"]["inputs"], [0, 1])[0], loss)


@pytest.mark.parametrize(
    ("term", "plain"),
    [
        ({"kind": "copg", "beta": 0.5}, {"kind": "copg", "beta": 0.5}),
        ({"kind": "dpo", "margin_per_reward": 2.0}, {"kind": "dpo", "margin": 0.54}),
        ({"kind": "adpo"}, {"kind": "adpo"}),
    ],
    ids=["copg", "dpo", "adpo"],
)
def test_large_rewards_that_are_close_differ_by_what_they_differ(
    term: dict[str, Any], plain: dict[str, Any]
) -> None:
    """1000.37 and 1000.1 are 0.27 apart; in float32 they are 0.27002 apart."""
    inputs = CASES["pref.dpo"]["inputs"]
    found = loss_and_gradient([term], inputs, [0, 1], (1000.37, 1000.1))
    expected = loss_and_gradient([plain], inputs, [0, 1], (0.27, 0.0))
    assert all(close(mine, other) for mine, other in zip(found, expected, strict=True))


def test_rounding_makes_no_order_in_a_list() -> None:
    """0.1 + 0.2 and 0.3 share their place."""
    inputs = CASES["pref.dpo"]["inputs"]
    loss, winners, losers = loss_and_gradient(
        [{"kind": "adpo", "one_hot": True}], inputs, [0], (0.1 + 0.2, 0.3)
    )
    expected = loss_and_gradient([{"kind": "adpo", "one_hot": True}], inputs, [0], (0.3, 0.3))
    assert (loss, winners, losers) == expected


def test_contrastive_policy_gradient_ends_at_the_closed_form() -> None:
    """argmax E[A] - lam KL(pi, pi_aux) = pi_aux exp(A / lam) / Z, whoever drew the three answers: one of each."""
    case = next(case for case in VECTORS["cases"] if case["id"] == "policy.kl_closed_form")
    rows = [trajectory([arm], id=str(arm), group="g", rank=arm) for arm in range(3)]
    batch, rewards = batch_of(rows, case["inputs"]["advantage"])
    ones = torch.ones(3, dtype=torch.bool)
    credit = Credit(torch.zeros(3), ones, ones, [""] * 3, ~ones[:1])
    views = {"reference": Evaluated(torch.tensor(case["inputs"]["aux_policy"], dtype=torch.float64).log())}
    objective = Objective.of([{"kind": "copg", "beta": case["params"]["lam"]}])
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        found = objective.whole(batch, credit, Evaluated(logits.log_softmax(0)), views, rewards)
        (slope,) = torch.autograd.grad(found.total, logits)
        with torch.no_grad():
            logits -= slope
    assert close(logits.detach().softmax(0), case["expected"]["policy"])
