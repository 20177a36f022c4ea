"""The value term and the critic's warm-up, on a table whose numbers can be worked out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from triune.algo.objective import Objective
from triune.algo.options import PolicyGradient
from triune.algo.types import Credit, Evaluated
from triune.core.errors import RecipeError
from triune.core.schedule import Progress
from triune.monitor.metric import Scored
from triune.testing.table import TableFamily, batch_of, recipe, scored, trajectory
from triune.train.learner import Learner

PPO: Mapping[str, Any] = {
    "advantage": {"kind": "gae", "whiten": False},
    "terms": {"policy": {"kind": "ppo_clip"}, "value": {"kind": "value"}},
}


def loss(
    value: torch.Tensor, returns: list[float], old: list[float] | None = None, **term: Any
) -> tuple[float, dict[tuple[str, str], float]]:
    """The value loss of three rows of one, one and two read-outs (their sources a, b, b), and its metrics."""
    sources = ["a", "b", "b"]
    rows = [
        trajectory([1] * n, turn=list(range(n)), id=f"{i}", source=sources[i])
        for i, n in enumerate((1, 1, 2))
    ]
    batch, _ = batch_of(rows, [0.0] * 3)
    batch.value_trajectory, batch.value_turn = batch.trajectory, batch.turn
    ones = torch.ones(3, dtype=torch.bool)
    credit = Credit(
        torch.zeros(4), torch.tensor([True, True, True]), ones, [""] * 3, torch.zeros(1).bool(),
        returns=torch.tensor(returns),
    )  # fmt: skip
    credit.in_loss = ~torch.tensor(returns)[[0, 1, 2]].isnan()
    seen = {"old": Evaluated(torch.zeros(4), value=torch.tensor(old or [0.0] * 4))}
    objective = Objective.of({"value": {"kind": "value", "coef": 1.0, **term}})
    found = objective.whole(batch, credit, Evaluated(torch.zeros(4, requires_grad=True), value=value), seen)
    found.total.backward()
    return float(found.total.detach()), {(m.name, m.label("source")): m.mean for m in found.metrics}


def test_the_mean_is_over_read_outs_or_as_the_term_says() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 5.0])
    squares = values.square()
    assert loss(values.clone().requires_grad_(), [0.0] * 4)[0] == pytest.approx(float(squares.mean() / 2))
    by_row = (squares[0] + squares[1] + squares[2:].mean()) / 3 / 2
    per_row = loss(values.clone().requires_grad_(), [0.0] * 4, aggregate="seq-mean-token-mean")[0]
    assert per_row == pytest.approx(float(by_row))


def test_a_return_outside_the_loss_may_be_anything() -> None:
    value = torch.tensor([torch.inf, 2.0, 3.0, 5.0]).requires_grad_()
    total, said = loss(value, [torch.nan, 0.0, 0.0, 0.0], clip=0.5)
    assert value.grad is not None
    assert value.grad.isfinite().all()
    assert value.grad[0] == 0
    assert total == pytest.approx((4 + 9 + 25) / 6)
    assert {source for _, source in said} == {"b"}


def test_what_is_measured_per_source() -> None:
    value = torch.tensor([0.4, 1.0, -1.0, 0.1]).requires_grad_()
    _, said = loss(value, [1.0, 1.0, 1.0, 1.0], clip=0.5)
    assert said[("value", "a")] == pytest.approx(0.4)
    assert said[("return", "b")] == 1.0
    assert said[("value_error", "b")] == pytest.approx((0 + 4 + 0.81) / 3)
    # One value has come nearer by more than the clip; the one that went astray is still pulled back.
    assert said[("value_clip_frac", "b")] == pytest.approx(1 / 3)
    assert value.grad is not None
    assert value.grad.tolist() == pytest.approx([-0.15, 0.0, -0.5, -0.225])


# -- warm-up ------------------------------------------------------------------------------------------------------


def rollouts() -> list[Scored]:
    family = TableFamily()
    return [
        scored(
            trajectory([i % 5, (i + 1) % 5], id=f"{i}", turn=[0, 1], group=str(i // 2), family=family), i / 4
        )
        for i in range(4)
    ]


def steps(
    count: int, *, algo: Mapping[str, Any], **train: Any
) -> tuple[TableFamily, list[dict[str, torch.Tensor]]]:
    family = TableFamily()
    plan = recipe(algo=algo, optimizer={"lr": 0.1, "warmup_fraction": 0.0, "weight_decay": 0.1}, **train)
    learner = Learner(family, plan, exact=True)
    states = []
    for number in range(1, count + 1):
        progress = Progress(step=number, total_steps=10)
        report = learner.step(rollouts, plan.at(progress), progress)
        states.append({name: m.weight.detach().clone() for name, m in family.modules().items()})
        assert any(a != 0 for a in report.advantages)
    return family, states


def test_the_policy_waits_and_then_starts_as_if_it_were_the_first_step() -> None:
    before = TableFamily()
    warm = {**PPO, "adjust": {"warmup": {"kind": "critic_warmup", "steps": 2}}}
    _, states = steps(3, algo=warm)
    for state in states[:2]:  # neither a gradient nor decay nor moments
        assert torch.equal(state["table"], before.table.weight)
    assert not torch.equal(states[0]["critic"], before.critic.weight)
    assert not torch.equal(states[1]["critic"], states[0]["critic"])
    assert not torch.equal(states[2]["table"], before.table.weight)
    # AdamW's first step is as large as the rate for every weight that has a gradient: no moments had been gathered.
    decayed = before.table.weight.detach() * (1 - 0.1 * 0.1)
    moved = (states[2]["table"] - decayed).abs()
    assert moved[moved > 1e-6].max() == pytest.approx(0.1, rel=1e-3)


def test_a_warm_up_without_a_value_term_is_refused() -> None:
    algo = {**PPO, "terms": {"policy": {"kind": "ppo_clip"}}}
    algo["adjust"] = {"warmup": {"kind": "critic_warmup", "steps": 2}}
    with pytest.raises(RecipeError, match=r"no term of algo\.terms teaches it"):
        Learner(TableFamily(), recipe(algo=algo), exact=True)


def test_a_preset_needs_a_policy_with_values() -> None:
    family = TableFamily()
    family.provides = frozenset({"entropy"})
    with pytest.raises(RecipeError, match="value"):
        Learner(family, recipe(algo={"preset": "ppo"}), exact=True)


@pytest.mark.parametrize("name", ["ppo", "ppo-trl", "vl-dac"])
def test_the_constants_of_the_presets(name: str) -> None:
    algo = PolicyGradient.model_validate({"preset": name})
    gae, terms = algo.estimator(), algo.parts("terms")
    expected = {
        # gamma, lam, whitened over, eps in; clip, dual; coefficient and clip of the value
        "ppo": (1.0, 1.0, "decisions", "variance", 0.2, 3.0, 1.0, 0.5),
        "ppo-trl": (1.0, 0.95, "decisions", "variance", 0.2, None, 0.1, 0.2),
        "vl-dac": (0.9, 0.95, "turns", "std", 0.1, None, 0.5, 0.1),
    }[name]
    policy, value = terms["policy"], terms["value"]
    found = (
        gae.gamma, gae.lam, gae.whiten_over, gae.whiten_eps_in, policy.clip_high, policy.dual, value.coef, value.clip
    )  # fmt: skip
    assert found == expected
    assert policy.clip_low == policy.clip_high
    if name == "vl-dac":
        assert (terms["kl"].form, terms["kl"].coef, algo.parts("adjust")["warmup"].steps) == ("k3", 0.04, 2)
    if name == "ppo-trl":
        assert algo.parts("shape")["kl"].coef == 0.05
