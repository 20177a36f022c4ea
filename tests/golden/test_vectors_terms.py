"""Policy losses, divergences, mismatch weights, masks and aggregations against the numbers of an independent float64
implementation, most of them also those of verl's own functions (`objective_vectors.json`, and the table of its
specification for what that file leaves out). A response is a row, its tokens are decisions; masked tokens do not exist
unless a case is about them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from triune.algo.kl import divergence, estimate
from triune.algo.objective import Objective
from triune.algo.options import ADJUSTMENTS, ADVANTAGES, PolicyGradient
from triune.algo.step import Step
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.schedule import Progress
from triune.testing.table import batch_of, share, trajectory

VECTORS = json.loads((Path(__file__).parent / "objective_vectors.json").read_text())
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in VECTORS["cases"]}
TOLERANCE: dict[str, float] = VECTORS["tolerance"]
B1 = VECTORS["batches"]["B1"]
MASK = torch.tensor(B1["response_mask"]).bool()
PROGRESS = Progress(step=1, total_steps=1)


def close(actual: Tensor, expected: Any) -> bool:
    return torch.allclose(actual.double(), torch.tensor(expected, dtype=torch.float64), **TOLERANCE)


def flat(table: Any, mask: Tensor = MASK) -> Tensor:
    return torch.tensor(table, dtype=torch.float64)[mask]


def made(behavior: str = "old_logp") -> tuple[Batch, Rewards]:
    """B1, drawn by the policy whose log-probs are called that."""
    rows = [
        trajectory([1] * int(mask.sum()), id=f"{i}", logp=B1[behavior][i][: int(mask.sum())], turn=list(range(int(mask.sum()))))
        for i, mask in enumerate(MASK)
    ]  # fmt: skip
    batch, rewards = batch_of(rows, B1["rewards"])
    batch.logp_behavior = flat(B1[behavior])
    batch.value_trajectory, batch.value_turn = batch.trajectory, batch.turn
    return batch, rewards


def credit(batch: Batch, rewards: Rewards, case: dict[str, Any]) -> Credit:
    """Advantages as the case names them; `sequence_rewards` stand for themselves."""
    if "sequence_rewards" in case.get("inputs", {}):
        raw = torch.tensor(case["inputs"]["sequence_rewards"])[batch.trajectory]
        return everything(batch, raw)
    name = case["params"]["adv"]
    if name == "adv.rloo":
        centred = ADVANTAGES["group"](scale="none")(batch, rewards, {})
        centred.advantage = centred.advantage * len(MASK) / (len(MASK) - 1)
        return centred
    params = CASES[name]["params"]
    old = Evaluated(flat(B1["old_logp"]), value=flat(B1["values_old"]))
    if params["estimator"] == "gae":
        made = ADVANTAGES["gae"](gamma=params["gamma"], lam=params["lam"])
    else:
        made = ADVANTAGES["group"](
            scale="none" if name == "adv.drgrpo" else "std", eps=params.get("eps", 1e-6)
        )
    return made(batch, rewards, {"old": old})


def everything(batch: Batch, advantage: Tensor) -> Credit:
    """Every rollout counts, with this advantage."""
    ones = torch.ones(len(batch.trajectories), dtype=torch.bool)
    return Credit(advantage, ones, ones, [""] * len(ones), torch.zeros(1, dtype=torch.bool))


def terms(case: dict[str, Any]) -> dict[str, Any]:
    """The terms that a case describes."""
    params = case["params"]
    level = {"sequence": "sequence_product"}.get(params.get("ratio", "token"), params.get("ratio", "token"))
    match params.get("clip", params.get("mask")):
        case "ppo":
            policy = {
                "kind": "ppo_clip",
                "clip_low": params["eps_low"],
                "clip_high": params["eps_high"],
                "dual": params.get("dual_clip"),
                "ratio": level,
            }
        case "cispo":
            policy = {"kind": "cispo_band", "clip_low": params["eps_low"], "clip_high": params["eps_high"]}
        case "topr":
            limits = ("a_pos", "b_pos", "a_neg", "b_neg")
            names = ("positive_low", "positive_high", "negative_low", "negative_high")
            policy = {
                "kind": "topr",
                "ratio": level,
                **{n: params[key] for n, key in zip(names, limits, strict=True)},
            }
        case "dppo_tv":
            policy = {"kind": "dppo", "low": params["mask_low"], "high": params["mask_high"]}
        case _:
            policy = {"kind": "reinforce"}
    found = {"policy": policy}
    if kl := params.get("kl"):
        if kl["form"] == "squared_logratio_to_rollout":
            found["kl"] = {"kind": "kl", "form": "k2", "view": "behavior", "coef": 2 * kl["coef"]}
        else:
            found["kl"] = {"kind": "kl", "form": kl["form"], "coef": kl["coef"]}
    if kl := params.get("perception_kl"):
        found["perception"] = {"kind": "kl", "form": kl["form"], "coef": -kl["coef"], "view": "masked"}
    return found


def loss_and_gradient(
    case: dict[str, Any], parts: dict[str, Any], mode: str | None = None, behavior: str = "old_logp"
) -> tuple[Tensor, Tensor]:
    table = {**B1, **case.get("inputs", {})}
    batch, rewards = made(behavior)
    # A ratio of a whole row is one loss per row: `seq-mean` of those is the mean over rows of their means.
    mode = {"seq-mean": "seq-mean-token-mean"}.get(
        mode or case["params"]["agg"], mode or case["params"]["agg"]
    )
    objective = Objective.of(parts, aggregate=mode, constant=case["params"].get("const"))
    views = {"old": Evaluated(flat(B1["old_logp"])), "reference": Evaluated(flat(B1["ref_logp"]))}
    if "aug_logp" in table:
        views["masked"] = Evaluated(flat(table["aug_logp"]))
    logp = flat(table["logp"]).requires_grad_()
    total = objective.whole(batch, credit(batch, rewards, case), Evaluated(logp), views).total
    total.backward()
    assert logp.grad is not None
    return total.detach(), logp.grad


LOSSES = [
    n for n, case in CASES.items() if case["kind"] == "loss" and {"grad_logp"} <= case["expected"].keys()
]


@pytest.mark.parametrize("name", LOSSES)
def test_policy_loss_and_its_gradient(name: str) -> None:
    case = CASES[name]
    behavior = "rollout_logp" if "rollout_logp" in case["params"].get("ratio", "") else "old_logp"
    loss, gradient = loss_and_gradient(case, terms(case), behavior=behavior)
    assert close(loss, case["expected"]["loss"])
    assert close(gradient, flat(case["expected"]["grad_logp"]).tolist())


@pytest.mark.parametrize(
    ("preset", "name", "changes"),
    [
        ("grpo", "loss.grpo_original.k3_0.04", {}),
        ("v-triune-script", "loss.vtriune_script", {}),
        ("dr-grpo-verl", "loss.drgrpo.verl", {"constant": 4}),
        ("dapo", "loss.dapo", {"terms": {"policy": {"dual": 3.0}}}),
        ("gspo", "loss.gspo.3e-4_4e-4", {}),
        ("cispo", "loss.cispo.band", {}),
        ("topr", "loss.topr.sequence", {}),
        ("dppo", "loss.prime_rl_default", {}),
        ("reinforce", "loss.rloo.reinforce", {}),
    ],
)
def test_presets_have_the_loss_of_what_they_are_named_after(
    preset: str, name: str, changes: dict[str, Any]
) -> None:
    case = CASES[name]
    algo = PolicyGradient.model_validate({"kind": "policy_gradient", "preset": preset, **changes})
    batch, rewards = made("rollout_logp" if "rollout_logp" in case["params"].get("ratio", "") else "old_logp")
    views = {"old": Evaluated(flat(B1["old_logp"])), "reference": Evaluated(flat(B1["ref_logp"]))}
    logp = flat({**B1, **case.get("inputs", {})}["logp"]).requires_grad_()
    total = Objective(algo).whole(batch, credit(batch, rewards, case), Evaluated(logp), views).total
    total.backward()
    assert logp.grad is not None
    assert close(total.detach(), case["expected"]["loss"])
    assert close(logp.grad, flat(case["expected"]["grad_logp"]).tolist())


def test_the_ratio_of_a_sequence() -> None:
    case = CASES["loss.gspo.3e-4_4e-4"]
    batch, rewards = made()
    objective = Objective.of(terms(case))
    views = {"old": Evaluated(flat(B1["old_logp"]))}
    result = objective.whole(batch, credit(batch, rewards, case), Evaluated(flat(B1["logp"])), views)
    (said,) = [m for m in result.metrics if m.name == "sequence_ratio"]
    rows = torch.tensor(case["expected"]["seq_ratio"])
    assert said.max == pytest.approx(float(rows.max()), abs=1e-6)
    assert said.mean == pytest.approx(float(rows[batch.trajectory].mean()), abs=1e-6)


GRPO = {"params": {"adv": "adv.grpo.eps1e-6"}}
RAW = {"params": {}, "inputs": CASES["loss.topr.sequence"]["inputs"]}
DRGRPO = {"params": {"adv": "adv.drgrpo", "const": 4}}
CLIP = {"kind": "ppo_clip", "clip_low": 0.2, "clip_high": 0.28, "dual": 3.0}


@pytest.mark.parametrize(
    ("case", "term", "mode", "expected"),
    [
        (DRGRPO, {"kind": "ppo_clip", "clip_high": 0.2}, "seq-mean-token-sum-const", 0.001941),
        (GRPO, CLIP, "seq-mean-token-sum", -0.351245),
        (GRPO, {**CLIP, "clip_high": 0.2, "dual": None, "ratio": "sequence_geomean"}, "seq-mean-token-mean", 0.131805),
        (GRPO, {"kind": "cispo_cap", "cap": 2.0}, "token-mean", 0.532951),
        (RAW, {"kind": "topr"}, "seq-mean-token-mean", 0.102284),
        (RAW, {"kind": "topr", "ratio": "sequence_geomean"}, "seq-mean-token-mean", 0.021413),
        (GRPO, {"kind": "sapo"}, "seq-mean-token-mean", 0.089175),
        (GRPO, {"kind": "gmpo", "clip_low": 0.2, "clip_high": 0.2}, "seq-mean-token-mean", 0.184992),
    ],
    ids=["dr-grpo-trl", "seq-sum", "gspo-0.2", "cispo-cap", "topr", "topr-geomean", "sapo", "gmpo"],
)  # fmt: skip
def test_losses_that_are_known_to_six_digits(
    case: dict[str, Any], term: dict[str, Any], mode: str, expected: float
) -> None:
    loss, _ = loss_and_gradient(case, {"policy": term}, mode)
    assert float(loss) == pytest.approx(expected, abs=6e-7)


@pytest.mark.parametrize("form", ["k1", "k2", "k3", "k3+"])
def test_divergence_estimates(form: Any) -> None:
    case = CASES["kl.k3_straight_through" if form == "k3+" else f"kl.{form}"]
    logp = flat(B1["logp"]).requires_grad_()
    value = estimate(form, logp - flat(B1["ref_logp"]))
    value.mean().backward()
    assert logp.grad is not None
    if "token_kl" in case["expected"]:
        assert close(value.detach(), flat(case["expected"]["token_kl"]).tolist())
    assert close(value.detach().mean(), case["expected"]["loss"])
    assert close(logp.grad, flat(case["expected"]["grad_logp"]).tolist())
    if form != "k1":  # refused as a loss: it has no gradient in expectation
        loss, gradient = loss_and_gradient(GRPO, {"kl": {"kind": "kl", "form": form}}, "token-mean")
        assert close(loss, case["expected"]["loss"])
        assert close(gradient, flat(case["expected"]["grad_logp"]).tolist())


def test_the_full_divergence_and_the_entropy() -> None:
    inputs, expected = CASES["kl.full"]["inputs"], CASES["kl.full"]["expected"]
    mine, other = (
        torch.tensor(inputs[name], dtype=torch.float64).log_softmax(-1)
        for name in ("logits_pi", "logits_ref")
    )
    assert close(divergence(mine, other), expected["reverse_kl_pi_ref"])
    assert close(divergence(other, mine), expected["forward_kl_ref_pi"])
    assert close(torch.special.entr(mine.exp()).sum(-1), expected["entropy_pi"])
    batch, _ = batch_of([trajectory([0, 0])], [1.0])
    views = {"reference": Evaluated(other[:, 0], extras={"distribution": other})}
    current = Evaluated(mine[:, 0], extras={"distribution": mine})
    for form, name in (("full", "reverse_kl_pi_ref"), ("full_forward", "forward_kl_ref_pi")):
        loss = Objective.of([{"kind": "kl", "form": form}]).whole(
            batch, everything(batch, torch.zeros(2)), current, views
        )
        assert close(loss.total, sum(expected[name]) / 2)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("weights.tis")])
def test_mismatch_weights(name: str) -> None:
    params = CASES[name]["params"]
    level = {"sequence": "sequence_product"}.get(params["level"], params["level"])
    batch, rewards = made("rollout_logp")
    step = Step(
        batch,
        [],
        rewards,
        {"old": Evaluated(flat(B1["old_logp"]))},
        PROGRESS,
        everything(batch, flat(B1["logp"])),
    )
    part = ADJUSTMENTS["mismatch"](
        level=level, mode=params["mode"], cap=params["cap"], floor=params.get("floor", 0.0)
    )
    part(step)
    assert step.credit is not None
    assert step.credit.scale is not None
    assert close(step.credit.scale, flat(CASES[name]["expected"]["weights"]).tolist())


def test_only_decisions_of_high_entropy_are_trained() -> None:
    case = CASES["mask.top_entropy"]
    batch, rewards = made()
    old = Evaluated(flat(B1["old_logp"]), entropy=flat(case["inputs"]["entropy"]))
    step = Step(batch, [], rewards, {"old": old}, PROGRESS, everything(batch, flat(B1["logp"])))
    ADJUSTMENTS["top_entropy"](share=case["params"]["quantile"])(step)
    assert step.credit is not None
    assert step.credit.scale is not None
    assert close(step.credit.scale, flat(case["expected"]["keep"]).tolist())


def rows(mask: list[list[float]], group: list[int]) -> Batch:
    """A batch of whole rows in which masked tokens are placed decisions."""
    found = [
        trajectory([1] * len(row), id=f"{i}", forced=[not m for m in row], group=str(group[i]))
        for i, row in enumerate(mask)
    ]
    return batch_of(found, [1.0] * len(found))[0]


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("token-mean", "token_mean"),
        ("group-token-mean", "group_token_mean"),
        ("seq-mean-token-mean", "seq_mean_token_mean"),
        ("seq-mean-token-mean-all", "seq_mean_token_mean_including_empty"),
        ("seq-mean-token-sum", "seq_mean_token_sum"),
        ("sum-const", "sum_const_L3"),
        ("seq-mean-token-sum-const", "seq_mean_token_sum_const_L3"),
    ],
)
def test_aggregation_modes(mode: str, name: str) -> None:
    case = CASES["agg.modes"]
    batch = rows(case["inputs"]["mask"], case["inputs"]["group"])
    loss = torch.tensor(case["inputs"]["token_loss"]).flatten()
    weight = share(batch, everything(batch, loss), mode, constant=case["params"]["const"]).weight
    assert close((loss * weight).sum(), case["expected"][name])


@pytest.mark.parametrize(
    ("mode", "name"), [("seq-mean-token-mean", "loss_exclude"), ("seq-mean-token-mean-all", "loss_include")]
)
def test_a_fully_masked_sequence_is_counted_only_where_that_is_asked_for(mode: str, name: str) -> None:
    case = CASES["edge.fully_masked_sequence"]
    batch = rows(case["inputs"]["mask"], [0, 0])
    loss = torch.tensor(case["inputs"]["token_loss"]).flatten()
    assert close((loss * share(batch, everything(batch, loss), mode).weight).sum(), case["expected"][name])


@pytest.mark.parametrize("mode", ["seq-mean-token-sum", "seq-mean-token-mean", "token-mean"])
def test_an_impossible_token_outside_the_loss_does_no_harm(mode: str) -> None:
    case = CASES["edge.padding_neg_inf"]
    text = json.dumps(case["inputs"]).replace('"-inf"', "-Infinity")
    inputs = {name: torch.tensor(value).flatten() for name, value in json.loads(text).items()}
    batch = rows(case["inputs"]["mask"], [0])
    logp = inputs["logp"].requires_grad_()
    views = {"old": Evaluated(inputs["old_logp"]), "reference": Evaluated(inputs["old_logp"])}
    parts = [{"kind": "ppo_clip"}, {"kind": "entropy", "coef": 0.1}, {"kind": "kl", "form": "k3"}]
    current = Evaluated(logp, torch.tensor([0.0, math.nan]))
    objective = Objective.of(parts, aggregate=mode)
    total = objective.whole(batch, everything(batch, inputs["advantages"]), current, views).total
    total.backward()
    assert logp.grad is not None
    assert close(total.detach(), case["expected"]["loss"])
    assert close(logp.grad, case["expected"]["grad_logp"][0])
