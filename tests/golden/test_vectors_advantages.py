"""Advantages and shaped rewards against the golden numbers (`objective_vectors.json`; a response is a row, its tokens are
decisions). Cases that the file does not hold were computed by hand from the published equations, and say so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from triune.algo.objective import Objective
from triune.algo.options import ADVANTAGES, SHAPES, PolicyGradient
from triune.algo.step import Step
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.schedule import Progress
from triune.core.verdict import Component, RewardEvent, Verdict
from triune.monitor.metric import Scored
from triune.testing.table import batch_of, scored, trajectory
from triune.testing.table import verdict as judgement
from triune.train.batching import rewards
from triune.verify.orders import kendall

VECTORS = json.loads((Path(__file__).parent / "objective_vectors.json").read_text())
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in VECTORS["cases"]}
ATOL = VECTORS["tolerance"]["atol"]
B1 = VECTORS["batches"]["B1"]

OPTIONS: dict[str, dict[str, Any]] = {
    "adv.grpo.eps1e-6": {"kind": "group"},
    "adv.grpo.eps1e-4": {"kind": "group", "eps": 1e-4},
    "adv.grpo.ddof0": {"kind": "group", "ddof": 0, "eps": 0.0},
    "adv.drgrpo": {"kind": "group", "scale": "none"},
    "adv.grpo.batchscale": {"kind": "group", "scale": "batch", "eps": 1e-4},
    "adv.grpo.zero_std_group": {"kind": "group"},
    "adv.rloo": {"kind": "rloo"},
    "adv.reinforce_pp_baseline": {"kind": "reinforce_pp_baseline"},
    "adv.reinforce_pp": {"kind": "reinforce_pp"},
    "adv.reinforce_pp.gamma0.9": {"kind": "reinforce_pp", "gamma": 0.9},
    "adv.opo": {"kind": "opo"},
    "adv.gpg": {"kind": "gpg"},
    "adv.maxrl": {"kind": "maxrl"},
}


def close(actual: Tensor, expected: Any) -> bool:
    return torch.allclose(actual.double(), torch.tensor(expected, dtype=torch.float64), atol=ATOL, rtol=ATOL)


def packed(table: Mapping[str, Any]) -> tuple[Batch, Rewards, Tensor]:
    """A batch of the file with its rewards and its mask; masked tokens do not exist."""
    mask = torch.tensor(table["response_mask"]).bool()
    rows = []
    for index, group in enumerate(table["group"]):
        size = int(mask[index].sum())
        old = table["old_logp"][index][:size] if "old_logp" in table else None
        rows.append(trajectory([1] * size, id=f"{index}", logp=old, group=f"{group}"))
    return *batch_of(rows, table["rewards"]), mask


def credit(kind: Mapping[str, Any], batch: Batch, said: Rewards) -> Credit:
    found: Credit = ADVANTAGES[kind["kind"]].model_validate(kind)(batch, said, {})
    return found


def check(case: Mapping[str, Any], found: Credit, batch: Batch, mask: Tensor) -> None:
    expected = case["expected"]
    if "advantages" in expected:
        assert close(
            found.advantage, torch.tensor(expected["advantages"]).double()[batch.trajectory].tolist()
        )
    if "token_advantages" in expected:
        assert close(found.advantage, torch.tensor(expected["token_advantages"]).double()[mask].tolist())
    if "degenerate_group" in expected:
        assert found.degenerate.tolist() == expected["degenerate_group"]


@pytest.mark.parametrize("name", OPTIONS)
def test_advantages(name: str) -> None:
    case = CASES[name]
    batch, said, mask = packed(VECTORS["batches"][case["batch"]])
    check(case, credit(OPTIONS[name], batch, said), batch, mask)


def test_every_advantage_of_the_file_is_reproduced_somewhere() -> None:
    elsewhere = {"adv.remax", "adv.sum_then_normalize"}  # below
    others = (
        "adv.gae",
        "adv.prefix_rft",
        "adv.kdrl",
    )  # need values, prefixes, a teacher: in files of their own
    known = {n for n in CASES if n.startswith("adv.") and not n.startswith(others)}
    assert known == OPTIONS.keys() | elsewhere


def test_remax_against_greedy_answers() -> None:
    case = CASES["adv.remax"]
    mask = torch.tensor(B1["response_mask"]).bool()
    # The file gives every response a greedy answer of its own, so every response is a group.
    rows = [trajectory([1] * int(m.sum()), id=f"{i}", group=f"{i}") for i, m in enumerate(mask)]
    greedy = [trajectory([1], id=f"{i}#greedy", group=f"{i}", component="baseline") for i in range(4)]
    batch, said = batch_of([*rows, *greedy], [*B1["rewards"], *case["inputs"]["greedy_rewards"]])
    found = credit({"kind": "remax"}, batch, said)
    size = int(mask.sum())
    assert close(found.advantage[:size], torch.tensor(case["expected"]["token_advantages"])[mask].tolist())
    assert found.advantage[size:].tolist() == [0.0] * 4
    assert found.in_loss.tolist() == found.in_baseline.tolist() == [True] * 4 + [False] * 4
    assert found.reasons[4:] == ["baseline"] * 4


def verdict(id: str, values: Sequence[float], weights: Sequence[float]) -> Verdict:
    parts = tuple(
        Component(name=f"{i}", value=v, weight=w)
        for i, (v, w) in enumerate(zip(values, weights, strict=True))
    )
    return Verdict(id=id, reward=sum(v * w for v, w in zip(values, weights, strict=True)), components=parts)


def parts_of(case: Mapping[str, Any]) -> tuple[Batch, Rewards]:
    table, weights = case["inputs"]["rewards_per_func"], case["params"]["weights"]
    rows = [trajectory([1], id=f"{i}", group=f"{g}") for i, g in enumerate(case["inputs"]["group"])]
    batch = Batch.of(rows, None)
    return batch, rewards(batch, [verdict(f"{i}", values, weights) for i, values in enumerate(table)])


def test_rewards_that_are_added_first() -> None:
    case = CASES["adv.sum_then_normalize"]
    batch, said = parts_of(case)
    options = {"kind": "group", "eps": case["params"]["eps"], "ddof": case["params"]["ddof"]}
    assert close(credit(options, batch, said).advantage, case["expected"]["advantages"])


def test_rewards_that_are_normalised_first() -> None:
    """TRL's equations with plain torch on the inputs of `adv.sum_then_normalize`, and a second group."""
    case = CASES["adv.sum_then_normalize"]
    inputs = {
        "rewards_per_func": [*case["inputs"]["rewards_per_func"], [0.3, 0.9], [0.7, 0.9], [0.2, 0.8]],
        "group": [0, 0, 0, 0, 1, 1, 1],
    }
    table, total = torch.tensor(inputs["rewards_per_func"]).double(), torch.zeros(7).double()
    for rows in (slice(0, 4), slice(4, 7)):
        part = table[rows]
        total[rows] = ((part - part.mean(0)) / (part.std(0) + 1e-4) * torch.tensor([1.0, 0.5])).sum(1)
    expected = (total - total.mean()) / (total.std() + 1e-4)
    batch, said = parts_of({"inputs": inputs, "params": case["params"]})
    assert close(credit({"kind": "gdpo"}, batch, said).advantage, expected.tolist())
    assert close(credit({"kind": "gdpo", "batch": False}, batch, said).advantage, total.tolist())


def test_pass_at_k_by_hand() -> None:
    batch, said, mask = packed(B1)
    std = torch.tensor(B1["rewards"]).double().std()
    expected = torch.tensor([0.4 / (std + 1e-6), 0, 0, 0])
    check(
        {"expected": {"advantages": expected.tolist()}},
        credit({"kind": "pass_at_k"}, batch, said),
        batch,
        mask,
    )
    plain = credit({"kind": "pass_at_k", "scale": "none"}, batch, said)
    check({"expected": {"advantages": [0.4, 0, 0, 0]}}, plain, batch, mask)


def test_a_moving_baseline_by_hand() -> None:
    """Scored before it moves the baseline: b = 0, .05, .0475, .075125."""
    batch, said, mask = packed(B1)
    found = credit({"kind": "ema"}, batch, said)
    check({"expected": {"advantages": [1.0, -0.05, 0.5525, 0.024875]}}, found, batch, mask)


@pytest.mark.parametrize(("tail", "last"), [("zero", 0.0), ("raw", 0.6)])
def test_the_optimal_token_baseline(tail: str, last: float) -> None:
    """Numbers of verl's own function (commit b178a3cd) on B1's old log-probs, with .2 of the first reward at its first
    token; `raw` is its handle_zero_tail."""
    mask = torch.tensor(B1["response_mask"]).bool()
    rows = [trajectory([1] * int(m.sum()), id=f"{i}") for i, m in enumerate(mask)]
    event = RewardEvent(decision=0, name="check", value=0.2)
    said = [judgement(f"{i}", r, (event,) if i == 0 else ()) for i, r in enumerate([1.2, *B1["rewards"][1:]])]
    batch = Batch.of(rows, None)
    collision = torch.tensor([0.3, 0.5, 0.2, 0.4, 0.3, 0.6, 0.15, 0.3, 0.4, 0.25])
    old = Evaluated(torch.tensor(B1["old_logp"]).double()[mask], extras={"collision": collision})
    found = ADVANTAGES["token_baseline"](tail=tail)(batch, rewards(batch, said), {"old": old})
    expected = [
        0.7697920379, 0.5052981124, 0.1976096501, -0.4302079621, -0.4947018876,
        0.1697920379, 0.1052981124, -0.2023903499, last, -0.3302079621,
    ]  # fmt: skip
    assert close(found.advantage, expected)


def test_a_group_of_one() -> None:
    case = CASES["edge.singleton_group"]
    batch, said = batch_of([trajectory([1], id="0")], case["inputs"]["rewards"])
    for choice, key in (("zero", "policy_zero"), ("raw", "policy_raw_eps1e_6")):
        assert close(
            credit({"kind": "group", "singleton": choice}, batch, said).advantage, case["expected"][key]
        )


def test_equal_rewards_in_float32() -> None:
    case = CASES["edge.fp32_zero_variance"]
    said = torch.tensor(case["inputs"]["rewards"], dtype=torch.float32)
    batch, _ = batch_of([trajectory([1], id=f"{i}") for i in range(8)], [0.7] * 8)
    found = credit({"kind": "group"}, batch, Rewards(said.double(), said))
    assert found.advantage.tolist() == case["expected"]["advantages"]


# -- rewards -------------------------------------------------------------------------------------------------------


def shaped(options: Mapping[str, Any], rollouts: Sequence[Scored], **views: Tensor) -> tuple[Rewards, Batch]:
    batch = Batch.of([one.trajectory for one in rollouts], None)
    seen = {name: Evaluated(logp) for name, logp in views.items()}
    said = rewards(batch, [one.verdict for one in rollouts])
    step = Step(batch, rollouts, said, seen, Progress(step=1, total_steps=1))
    found: Rewards = SHAPES[options["kind"]].model_validate(options)(step)[0]
    return found, batch


def test_kl_in_the_reward() -> None:
    case = CASES["reward.kl_in_reward.k1.0.05"]
    mask = torch.tensor(B1["response_mask"]).bool()
    rows = [trajectory([1] * int(m.sum()), id=f"{i}") for i, m in enumerate(mask)]
    logp = {
        name: torch.tensor(B1[f"{key}_logp"]).double()[mask]
        for name, key in (("old", "old"), ("reference", "ref"))
    }
    options = {"kind": "kl_in_reward", **case["params"]}
    found, _ = shaped(options, [scored(t, r) for t, r in zip(rows, B1["rewards"], strict=True)], **logp)
    assert close(found.placed, torch.tensor(case["expected"]["token_rewards"])[mask].tolist())
    assert close(found.total, case["expected"]["sequence_rewards"])


@pytest.mark.parametrize("form", ["k1", "k2", "k3"])
def test_kl_forms(form: str) -> None:
    """The per-token estimates of the `kl` cases, on the log-probs of the current policy."""
    mask = torch.tensor(B1["response_mask"]).bool()
    rows = [trajectory([1] * int(m.sum()), id=f"{i}") for i, m in enumerate(mask)]
    logp = {
        name: torch.tensor(B1[key]).double()[mask]
        for name, key in (("old", "logp"), ("reference", "ref_logp"))
    }
    found, _ = shaped(
        {"kind": "kl_in_reward", "form": form, "coef": 1.0}, [scored(t, 0.0) for t in rows], **logp
    )
    expected = torch.tensor(CASES[f"kl.{form}"]["expected"]["token_kl"])[mask]
    assert close(-found.placed, expected.tolist())


def test_soft_overlong() -> None:
    case = CASES["reward.overlong"]
    params = case["params"]
    options = {
        "kind": "soft_overlong",
        "max_length": params["max_len"],
        "buffer": params["buffer"],
        "factor": params["factor"],
    }
    lengths = case["inputs"]["length"]
    rows = [trajectory([1] * n, id=f"{i}") for i, n in enumerate([*lengths, 3 * params["max_len"] // 2])]
    found, _ = shaped(options, [scored(t, 0.0) for t in rows])
    assert close(found.total, [*case["expected"]["penalty"], -params["factor"]])


def test_win_rates_from_a_matrix() -> None:
    case = CASES["reward.spo_winrate"]
    matrix = case["inputs"]["pairwise_win_prob"]
    rollouts = []
    for rank, row in enumerate(matrix):
        one = scored(trajectory([1], id=f"{rank}", rank=rank), 0.0)
        said = Component(
            name="pairs", value=0.0, weight=1.0, metrics={f"beats/{k}": p for k, p in enumerate(row)}
        )
        rollouts.append(
            Scored(
                one.sample, one.trajectory, one.outcome, Verdict(id=f"{rank}", reward=0.0, components=(said,))
            )
        )
    found, _ = shaped({"kind": "pairwise", "check": "pairs"}, rollouts)
    assert close(found.total, case["expected"]["rewards"])
    assert close(found.placed, case["expected"]["rewards"])


def test_kendalls_tau_of_an_order() -> None:
    """By hand: of six pairs one is the wrong way round, then five."""
    assert kendall(["b", "a", "c", "d"], ["a", "b", "c", "d"]) == pytest.approx(4 / 6)
    assert kendall(["d", "c", "a", "b"], ["a", "b", "c", "d"]) == pytest.approx(-4 / 6)


# -- presets -------------------------------------------------------------------------------------------------------


def test_the_preset_of_leave_one_out_has_trls_loss() -> None:
    """`loss.rloo.trl` has no reference policy: the preset without its KL."""
    case = CASES["loss.rloo.trl"]
    batch, said, mask = packed(B1)
    algo = PolicyGradient.model_validate({"preset": "rloo", "shape": {"kl": None}})
    logp = torch.tensor(B1["logp"]).double()[mask].requires_grad_()
    old = {"old": Evaluated(torch.tensor(B1["old_logp"]).double()[mask])}
    found = algo.estimator()(batch, said, old)
    total = Objective(algo).whole(batch, found, Evaluated(logp), old, said).total
    total.backward()
    assert logp.grad is not None
    assert close(total.detach(), case["expected"]["loss"])
    assert close(logp.grad, torch.tensor(case["expected"]["grad_logp"])[mask].tolist())
    assert algo.parts("shape") == {}
    shape = PolicyGradient.model_validate({"preset": "rloo"}).parts("shape")["kl"]
    assert (shape.form, shape.coef) == ("k1", 0.05)


def test_the_preset_of_reinforce_pp_baseline_has_its_loss() -> None:
    """.225051 by the table of the specification, with verl's dual clip."""
    batch, said, mask = packed(B1)
    algo = PolicyGradient.model_validate({"preset": "reinforce++-baseline"})
    old = {"old": Evaluated(torch.tensor(B1["old_logp"]).double()[mask])}
    found = algo.estimator()(batch, said, old)
    current = Evaluated(torch.tensor(B1["logp"]).double()[mask])
    assert float(Objective(algo).whole(batch, found, current, old, said).total) == pytest.approx(
        0.225051, abs=1e-6
    )
