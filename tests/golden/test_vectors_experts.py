"""Demonstrations, gates, hints and distillation against numbers of an independent float64 implementation
(`objective_vectors.json`), through the parts that a recipe names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from triune.algo.objective import Objective
from triune.algo.options import ADJUSTMENTS, ADVANTAGES, COLLECTORS
from triune.algo.preset import load
from triune.algo.step import Step
from triune.algo.types import Batch, Credit, Evaluated
from triune.core.schedule import Progress, WarmupCosine
from triune.core.trajectory import Trajectory
from triune.testing.table import batch_of, scored, trajectory

VECTORS = json.loads((Path(__file__).parent / "objective_vectors.json").read_text())
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in VECTORS["cases"]}
ATOL = VECTORS["tolerance"]["atol"]
NOW = Progress(step=1, total_steps=10)


def close(actual: Tensor, expected: Any) -> bool:
    return torch.allclose(actual.double(), torch.tensor(expected, dtype=torch.float64), atol=ATOL, rtol=ATOL)


def shown(mask: Tensor) -> tuple[Batch, Credit]:
    rows = [
        trajectory([1] * int(row.sum()), id=f"{i}", forced=True, component="expert")
        for i, row in enumerate(mask.bool())
    ]
    batch, rewards = batch_of(rows, [1.0] * len(rows))
    return batch, ADVANTAGES["group"]()(batch, rewards, {})


def expert(term: dict[str, Any], logp: Tensor, mask: Tensor, advantage: float = 1.0) -> tuple[float, Tensor]:
    batch, credit = shown(mask)
    credit.advantage = torch.full((batch.num_decisions,), advantage, dtype=torch.float64)
    flat = logp[mask.bool()].requires_grad_()
    total = Objective.of([term]).whole(batch, credit, Evaluated(flat), {}).total
    (grad,) = torch.autograd.grad(total, flat)
    whole = torch.zeros_like(mask)
    whole[mask.bool()] = grad
    return float(total.detach()), whole


@pytest.mark.parametrize("name", ["sft", "chord_phi", "sft_is"])
def test_expert_terms(name: str) -> None:
    case = CASES[f"expert.{name}"]
    logp = torch.tensor(case["inputs"]["logp"], dtype=torch.float64)
    mask = torch.tensor(case["inputs"]["mask"], dtype=torch.float64)
    loss, grad = expert({"kind": "imitation", "weight": name}, logp, mask)
    assert loss == pytest.approx(case["expected"]["loss"], abs=ATOL)
    assert close(grad, case["expected"]["grad_logp"])


def test_luffy_has_the_gradient_of_the_weight_table() -> None:
    inputs = CASES["expert.sft"]["inputs"]
    logp = torch.tensor(inputs["logp"], dtype=torch.float64)
    mask = torch.tensor(inputs["mask"], dtype=torch.float64)
    p = logp.exp()
    summed = {"aggregate": "sum-const", "constant": 1.0}
    loss, grad = expert({"kind": "luffy", **summed}, logp.clone(), mask, advantage=0.8)
    assert loss == pytest.approx(float(-(0.8 * p / (p + 0.1) * mask).sum()), abs=1e-12)
    assert torch.allclose(grad, -0.8 * 0.1 * p / (p + 0.1) ** 2 * mask, atol=1e-12)
    loss, grad = expert({"kind": "luffy", "gamma": None, **summed}, logp.clone(), mask, advantage=-0.8)
    assert torch.allclose(grad, 0.8 * p * mask, atol=1e-12)


@pytest.mark.parametrize("name", ["schedule.chord_mu", "schedule.chord_mu_paperlike"])
def test_the_schedule_of_chord(name: str) -> None:
    case = CASES[name]
    schedule = WarmupCosine.model_validate(case["params"])
    steps = case["inputs"]["steps"]
    found = [schedule.at(Progress(step=step, total_steps=max(steps))) for step in steps]
    assert found == pytest.approx(case["expected"]["values"], abs=ATOL)


@pytest.mark.parametrize(
    ("preset", "name"), [("chord", "schedule.chord_mu"), ("chord-mu", "schedule.chord_mu_paperlike")]
)
def test_the_presets_of_chord_have_that_schedule(preset: str, name: str) -> None:
    terms = Objective.of(load(preset).algo["terms"]).terms
    case = CASES[name]
    for step, mu in zip(case["inputs"]["steps"], case["expected"]["values"], strict=True):
        now = Progress(step=step, total_steps=2000)
        assert terms["expert"].coefficient(now) == pytest.approx(mu, abs=ATOL)
        assert terms["policy"].coefficient(now) == pytest.approx(1 - mu, abs=ATOL)


def test_the_least_prefix_falls_by_a_cosine() -> None:
    collector = COLLECTORS["prefix"]()
    for done in (0.0, 0.25, 0.5, 1.0):
        low = collector.least_share(Progress(step=round(1000 * done), total_steps=1000))
        assert low == pytest.approx(0.05 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)), abs=1e-12)


def stepped(rows: list[Trajectory], totals: list[float], views: dict[str, Evaluated] | None = None) -> Step:
    batch, rewards = batch_of(rows, totals)
    rewards.correct = rewards.total.clone()
    credit = ADVANTAGES["group"]()(batch, rewards, {})
    return Step(
        batch, [scored(t, r) for t, r in zip(rows, totals, strict=True)], rewards, views or {}, NOW, credit
    )


def test_the_gate_of_hpt() -> None:
    case = CASES["gate.hpt"]
    size = case["params"]["group_size"]
    for solved, mode in zip(case["inputs"]["num_correct"], case["expected"]["mode"], strict=True):
        rows = [trajectory([1], id=f"{i}") for i in range(size)]
        rows.append(trajectory([1], id="demo", forced=True, component="expert"))
        step = stepped(rows, [1.0] * solved + [0.0] * (size - solved) + [1.0])
        metrics = ADJUSTMENTS["gate_switch"](at_most=case["params"]["gate"])(step)
        assert step.credit is not None
        trained = {"sft": [False] * size + [True], "rl": [True] * size + [False]}[mode]
        assert step.credit.in_loss.tolist() == trained
        assert {m.label("mode") for m in metrics if m.name == "gate/share" and m.mean == 1} == {mode}


def test_the_advantages_of_prefix_rft() -> None:
    case = CASES["adv.prefix_rft.drgrpo"]
    rows = [
        trajectory([1, 2], id=f"{i}", forced=[bool(mark), False])
        for i, mark in enumerate(case["inputs"]["is_prefixed"])
    ]
    batch, rewards = batch_of(rows, case["inputs"]["rewards"])
    credit = ADVANTAGES["prefix_rft"](top_entropy=1.0)(batch, rewards, {})
    assert close(credit.advantage.reshape(-1, 2)[:, 1], case["expected"]["continuation_advantages"])
    assert float(credit.advantage[-2]) == pytest.approx(case["expected"]["prefix_token_advantage"], abs=ATOL)


def test_the_additive_advantages_of_kdrl() -> None:
    case = CASES["adv.kdrl_additive"]
    gaps = torch.tensor(case["inputs"]["teacher_minus_student_logp"]).flatten()
    rows = [trajectory([1, 2], id=f"{i}", logp=[-1.0, -2.0]) for i in range(2)]
    old = Evaluated(torch.tensor([-1.0, -2.0] * 2))
    step = stepped(rows, [1.0, 0.0], {"old": old, "teacher": Evaluated(old.logp + gaps)})
    assert step.credit is not None
    step.credit.advantage = torch.tensor(case["inputs"]["advantages"]).repeat_interleave(2)
    ADJUSTMENTS["distill"](beta=case["params"]["beta"])(step)
    assert close(step.credit.advantage.reshape(2, 2), case["expected"]["token_advantages"])


def grao(over: str, lam: float = 0.6, beta: float = 0.5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, gradient, log-probs and the mask of the placed tokens, of B1's responses and a reference answer of 3 tokens."""
    table = VECTORS["batches"]["B1"]
    mask = torch.tensor(table["response_mask"]).bool()
    rows = [trajectory([1] * int(m.sum()), id=f"{i}") for i, m in enumerate(mask)]
    rows.append(trajectory([1] * 3, id="y", forced=True, component="expert"))
    batch, rewards = batch_of(rows, [*table["rewards"], 0.9])
    credit = ADVANTAGES["grao"](over=over, lam=lam, beta=beta)(batch, rewards, {})
    own = torch.tensor(table["logp"], dtype=torch.float64)[mask]
    logp = torch.cat([own, torch.tensor([-0.5, -1.5, -0.1], dtype=torch.float64)]).requires_grad_()
    objective = Objective.of(load("grao").algo["terms"], aggregate="seq-mean-token-mean")
    loss = objective.whole(batch, credit, Evaluated(logp), {"old": Evaluated(logp.detach())}, rewards).total
    (grad,) = torch.autograd.grad(loss, logp)
    return loss.detach(), grad, logp.detach(), ~batch.sampled


def written_out(over: str, logp: Tensor, lam: float = 0.6, beta: float = 0.5) -> Tensor:
    """The three sums of the paper, as they stand."""
    table = VECTORS["batches"]["B1"]
    sizes = [int(sum(row)) for row in table["response_mask"]]
    *own, reference = [part.mean() for part in logp.split([*sizes, 3])]
    rewards = torch.tensor([*table["rewards"], 0.9], dtype=torch.float64)
    among = rewards if over == "all" else rewards[:-1]
    z = (rewards - among.mean()) / among.std(correction=0)
    exploration = sum(z[i] * j for i, j in enumerate(own)) / 4
    gap = sum(z[i] * (j - reference) for i, j in enumerate(own)) / 4
    return -(exploration + beta * z[-1] * reference + lam * gap)


@pytest.mark.parametrize("over", ["samples", "all"])
def test_grao_is_the_three_sums_of_the_paper(over: str) -> None:
    loss, grad, logp, _ = grao(over)
    logp = logp.clone().requires_grad_()
    expected = written_out(over, logp)
    (gradient,) = torch.autograd.grad(expected, logp)
    assert float(loss) == pytest.approx(float(expected.detach()), abs=ATOL)
    assert torch.allclose(grad, gradient, atol=ATOL)


def test_grao_collapses_while_the_reference_is_outside_its_group() -> None:
    """(1 + lam) policy gradient + beta A_y SFT: the gap pulls on nothing but the samples, unless y is in the statistics."""
    for over, collapses in (("samples", True), ("all", False)):
        with_gap, without = grao(over), grao(over, lam=0.0)
        placed = with_gap[3]
        assert torch.allclose(with_gap[1][~placed], 1.6 * without[1][~placed], atol=ATOL)
        assert torch.allclose(with_gap[1][placed], without[1][placed], atol=ATOL) == collapses


def test_nobody_left_a_case_of_these_kinds_out() -> None:
    held = {
        "expert.sft", "expert.chord_phi", "expert.sft_is", "schedule.chord_mu", "schedule.chord_mu_paperlike",
        "gate.hpt", "adv.prefix_rft.drgrpo", "adv.kdrl_additive",
    }  # fmt: skip
    kinds = ("expert.", "schedule.", "gate.hpt", "gate.ahpo", "adv.prefix_rft", "adv.kdrl", "loss.grao")
    assert {name for name in CASES if name.startswith(kinds)} == held
