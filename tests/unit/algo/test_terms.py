"""What single terms promise beside their gradient: levels of a ratio, drift, floors, entropy, and any split of a step."""

from __future__ import annotations

import math
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from triune.algo.objective import Loss, Objective
from triune.algo.options import TERMS
from triune.algo.terms.policy import PolicyTerm
from triune.algo.types import Batch, Credit, Evaluated
from triune.core.errors import ParityError, RecipeError
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule
from triune.monitor.metric import Metric, Scored
from triune.testing.table import TableFamily, recipe, scored, trajectory
from triune.train.learner import Learner

PROGRESS = Progress(step=1, total_steps=10)
LENGTHS = (3, 1, 2)


def ready(advantage: list[float], lengths: tuple[int, ...] = LENGTHS) -> tuple[Batch, Credit]:
    """One advantage per row."""
    rows = [trajectory([1] * size, id=f"{i}", source=f"{i % 2}") for i, size in enumerate(lengths)]
    batch, ones = Batch.of(rows, None), torch.ones(len(rows), dtype=torch.bool)
    flat = torch.tensor(advantage)[batch.trajectory]
    return batch, Credit(flat, ones, ones, [""] * len(rows), ~ones[:1])


def run(
    given: tuple[Batch, Credit],
    logp: Tensor,
    *terms: dict[str, Any],
    old: Tensor | None = None,
    **options: Any,
) -> tuple[Loss, Tensor]:
    logp = logp.clone().requires_grad_()
    views = {"old": Evaluated(torch.full_like(logp, -1.0).detach() if old is None else old)}
    loss = Objective.of(terms, **options).whole(*given, Evaluated(logp), views)
    loss.total.backward()
    assert logp.grad is not None
    return loss, logp.grad


MOVED = torch.tensor([0.2, -0.3, 0.4, 0.9, -0.5, 0.1], dtype=torch.float64) - 1.0


@pytest.mark.parametrize("clip", [0.2, 3e-4])
def test_the_straight_through_ratio_of_verl_is_the_row_ratio_of_trl(clip: float) -> None:
    """Same loss and gradient while advantage and weight are constant within a row; not so where they vary."""
    given = ready([1.0, -2.0, 0.5])
    term = {"kind": "ppo_clip", "clip_low": clip, "clip_high": clip}
    (row, row_gradient), (token, token_gradient) = (
        run(given, MOVED, {**term, "ratio": level}, aggregate="seq-mean-token-mean")
        for level in ("sequence_geomean", "sequence_geomean_token")
    )
    assert float(row.total.detach()) == pytest.approx(float(token.total.detach()), abs=1e-12)
    assert torch.allclose(row_gradient, token_gradient, atol=1e-12)
    assert row_gradient.abs().max() > 0.1
    given[1].advantage[0] = 3.0
    loose = {**term, "clip_low": None, "clip_high": None}
    (_, row_gradient), (_, token_gradient) = (
        run(given, MOVED, {**loose, "ratio": level})
        for level in ("sequence_geomean", "sequence_geomean_token")
    )
    assert not torch.allclose(row_gradient, token_gradient, atol=1e-3)


def test_a_mean_log_ratio_is_clamped_from_above_only() -> None:
    given = ready([-1.0], (2,))
    up, gradient = run(given, torch.tensor([20.0, 20.0]), {"kind": "ppo_clip", "ratio": "sequence_geomean"})
    assert float(up.total.detach()) == pytest.approx(math.exp(10))
    assert gradient.tolist() == [0.0, 0.0]
    down, _ = run(given, torch.tensor([-90.0, -90.0]), {"kind": "topr", "ratio": "sequence_geomean"})
    assert math.isfinite(float(down.total.detach()))
    assert float(down.total.detach()) == pytest.approx(0.0, abs=1e-30)


def test_a_row_that_drifted_away_is_not_pushed_further() -> None:
    """Mean log-ratio of engine over policy: 0.3 in row 1; the others are near. Only a negative advantage is dropped."""
    given = ready([-1.0, -1.0, -1.0])
    logp = torch.tensor([-1.0, -1.1, -0.9, -1.3, -1.0, -1.05])
    _, plain = run(given, logp, {"kind": "reinforce"})
    loss, gradient = run(given, logp, {"kind": "reinforce", "max_drift": 0.2})
    assert gradient.tolist() == pytest.approx([*plain[:3].tolist(), 0.0, *plain[4:].tolist()])
    assert [m.mean for m in loss.metrics if m.name == "drifted"] == [0.0, 1.0]
    kept = ready([-1.0, 1.0, -1.0])
    _, gradient = run(kept, logp, {"kind": "reinforce", "max_drift": 0.2})
    assert float(gradient[3]) == pytest.approx(-1 / 6)


def test_cispo_never_loses_a_gradient_where_ppo_does() -> None:
    given = ready([1.0], (2,))
    logp = torch.tensor([-0.2, -2.0])  # ratios 2.2 and 0.37
    assert run(given, logp, {"kind": "ppo_clip"})[1][0] == 0.0
    assert run(given, logp, {"kind": "cispo_band"})[1].tolist() == pytest.approx([-1.28 / 2, -0.8 / 2])
    capped = run(given, logp, {"kind": "cispo_cap", "cap": 2.0})[1]
    assert capped.tolist() == pytest.approx([-1.0, -math.exp(-1.0) / 2])


def test_limits_of_topr_must_be_in_order() -> None:
    with pytest.raises(ValidationError, match="above its upper limit"):
        TERMS["topr"](positive_low=2.0)


def test_an_impossible_decision_that_is_trained_is_an_error_that_names_its_rollout() -> None:
    given = ready([1.0, 1.0, 1.0])
    logp = torch.full((6,), -1.0)
    logp[4] = -math.inf
    with pytest.raises(ParityError, match=r"rollout '2': its decision 0 .* -inf in the view 'current'"):
        run(given, logp, {"kind": "ppo_clip"})
    with pytest.raises(ParityError, match=r"rollout '2': its decision 0 .* 'old'"):
        run(given, torch.full((6,), -1.0), {"kind": "ppo_clip"}, old=logp)
    logp[4] = math.nan
    for floor in (None, -30.0):
        with pytest.raises(ParityError, match="nan"):
            run(given, logp, {"kind": "ppo_clip"}, logp_floor=floor)


def test_a_floor_stands_for_the_impossible_and_is_counted() -> None:
    given = ready([-1.0, -1.0, -1.0])
    logp = torch.full((6,), -1.0)
    logp[4] = -math.inf
    loss, gradient = run(given, logp, {"kind": "ppo_clip"}, logp_floor=-30.0)
    assert gradient.tolist() == pytest.approx([1 / 6] * 4 + [0.0, 1 / 6])
    floored = {m.label("source"): m.total > 0 for m in loss.metrics if m.name == "logp_floored/current"}
    assert floored == {"0": True, "1": False}


def test_a_view_that_a_term_does_not_need_may_hold_anything() -> None:
    given = ready([1.0, 1.0, 1.0])
    loss, _ = run(given, torch.full((6,), -1.0), {"kind": "topr"}, old=torch.full((6,), math.nan))
    assert math.isfinite(float(loss.total.detach()))


def entropy_gradient(form: str) -> tuple[float, Tensor, Tensor]:
    """Loss of a bonus over every choice of a categorical, as often as it is drawn; its gradient; and that of -H."""
    logits = torch.tensor([1.0, 0.2, -0.7], dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum()
    batch, credit = ready([0.0], (3,))
    objective = Objective.of([{"kind": "entropy", "coef": 1.0, "form": form}])
    share = objective.shares(batch, credit, None)["entropy"]
    share.weight = logp.exp().detach()
    current = Evaluated(logp, entropy=entropy.expand(3))
    total = objective(batch, current, {}, {"entropy": share}, PROGRESS).total
    (found,) = torch.autograd.grad(total, logits, retain_graph=True)
    (exact,) = torch.autograd.grad(-entropy, logits)
    return float((total + entropy).detach()), found, exact


def test_the_exact_bonus_has_the_gradient_of_the_entropy_and_the_sampled_one_none() -> None:
    gap, found, exact = entropy_gradient("exact")
    assert gap == pytest.approx(0.0, abs=1e-12)
    assert torch.allclose(found, exact, atol=1e-12)
    gap, found, exact = entropy_gradient("sampled")
    assert gap == pytest.approx(0.0, abs=1e-12)  # its value is right
    assert found.abs().max() < 1e-15
    assert exact.abs().max() > 0.1


def entropy_metrics(*values: float) -> list[Metric]:
    """As the learner reports it, by source; the mean counts."""
    return [Metric.of("entropy", [value], source=f"{i}") for i, value in enumerate(values)]


def test_the_coefficient_follows_the_entropy_within_its_bounds() -> None:
    term = TERMS["entropy_control"](target=0.5, step=0.01, maximum=0.025)
    assert term.coefficient(PROGRESS) == 0.0  # nothing was measured yet
    seen = []
    for entropy in (0.4, 0.5, 0.3, 0.2, 0.6, 0.1):
        term.observe(entropy_metrics(entropy - 0.1, entropy + 0.1))
        seen.append(term.coefficient(PROGRESS))
    assert seen == pytest.approx([0.01, 0.02, 0.025, 0.025, 0.0, 0.025])
    assert term.state()["coef"] == pytest.approx(0.025)
    term.observe([Metric.of("other", [1.0])])
    assert term.coefficient(PROGRESS) == pytest.approx(0.025)
    with pytest.raises(ValidationError, match="outside"):
        TERMS["entropy_control"](coef=2.0)


CONTROL = {
    "terms": {"policy": {"kind": "ppo_clip"}, "h": {"kind": "entropy_control", "target": 9.0, "step": 0.1}}
}


def rollouts(seed: int = 0) -> list[Scored]:
    """Six of them in two groups, of one to four tokens, drawn under weights nearby; rewards 0 and 1."""
    family = TableFamily()
    noise = torch.randn(family.table.weight.shape, generator=torch.Generator().manual_seed(1))
    family.table.weight.data += 0.2 * noise
    rule = ((0, SamplingRule()),)
    return [
        scored(
            trajectory(
                [(i * j + j + seed) % 5 for j in range(1 + i % 4)],
                id=f"{i}",
                group=f"{i // 3}",
                source=f"{i % 2}",
                family=family,
                rules=rule,
            ),
            float(i % 2),
        )
        for i in range(6)
    ]


def test_the_controller_is_saved_and_resumed() -> None:
    def step(learner: Learner, number: int) -> None:
        learner.step(rollouts, plan, Progress(step=number, total_steps=10))

    plan = recipe(algo=CONTROL)
    one = Learner(TableFamily(), plan, exact=False)
    step(one, 1)
    state = deepcopy(one.state())
    assert state["parts"]["terms.h"]["entropy_control"]["coef"] == pytest.approx(0.1)
    step(one, 2)
    other = Learner(TableFamily(), plan, exact=False)
    step(other, 1)
    fresh = Learner(other.family, plan, exact=False)
    fresh.restore(state)
    step(fresh, 2)
    assert torch.equal(fresh.family.modules()["table"].weight, one.family.modules()["table"].weight)
    assert fresh.parts["terms.h"].state() == one.parts["terms.h"].state()


def test_a_stage_keeps_what_a_part_remembers_and_not_what_another_kind_did() -> None:
    plain = {"terms": {"policy": {"kind": "ppo_clip"}, "h": {"kind": "entropy", "coef": 0.01}}}
    faster = {"terms": {**CONTROL["terms"], "h": {**CONTROL["terms"]["h"], "step": 0.2}}}
    one = Learner(TableFamily(), recipe(algo=plain), exact=False)
    coefs = []
    for number, algo in enumerate((plain, CONTROL, faster, plain, CONTROL), 1):
        one.step(rollouts, recipe(algo=algo), Progress(step=number, total_steps=10))
        coefs.append(one.parts["terms.h"].state().get("coef"))
    assert coefs == pytest.approx([None, 0.1, 0.3, None, 0.4])


def test_what_a_later_stage_remembers_is_resumed() -> None:
    """The checkpoint is of a stage whose part the recipe's beginning does not have."""
    plain = recipe(algo={"terms": {"policy": {"kind": "ppo_clip"}}})
    one = Learner(TableFamily(), plain, exact=False)
    one.step(rollouts, recipe(algo=CONTROL), PROGRESS)
    other = Learner(TableFamily(), plain, exact=False)
    other.restore(deepcopy(one.state()))
    other.step(rollouts, recipe(algo=CONTROL), Progress(step=2, total_steps=10))
    assert other.parts["terms.h"].state()["coef"] == pytest.approx(0.2)


EVERY = [
    {"kind": name, **example}
    for name in TERMS
    if issubclass(TERMS[name], PolicyTerm)
    for example in TERMS[name].examples
] + [
    {"kind": "kl", "form": "k3_corrected", "view": "behavior"},
    {"kind": "kl", "form": "k2", "view": "behavior"},
    {"kind": "kl", "form": "k3", "coef": 5.0},
    {"kind": "kl", "form": "full", "coef": 5.0},
    {"kind": "kl", "form": "full_forward", "coef": 5.0},
    {"kind": "kl_cov", "top": 0.3, "view": "behavior", "form": "k2"},
    {"kind": "entropy", "coef": 1.0},
    {"kind": "entropy", "coef": 1.0, "form": "sampled"},
]


def gradients(term: dict[str, Any], mode: str, budget: int, double: bool) -> Tensor:
    """What the optimiser was given in one step of the learner, the policy having moved from `old` on the way there."""
    algo = {
        # The first mini-batch moves the policy away from its reference, where a divergence has no gradient.
        "terms": [term] if issubclass(TERMS[term["kind"]], PolicyTerm) else [{"kind": "ppo_clip"}, term],
        "aggregate": mode,
        "constant": 7.0,
        "adjust": {"band": {"kind": "reject", "level": "token", "form": "k3", "high": 4.0}},
    }
    family = TableFamily()
    plan = recipe(algo=algo, token_budget=budget, optimizer={"lr": 0.1, "clip_norm": 1e9}, minibatches_per_step=2,
                  prompts_per_step=2)  # fmt: skip
    if double:
        for module in family.modules().values():
            module.double()
    learner = Learner(family, plan, exact=False)
    taken: list[Tensor] = []

    def descend(*_: Any) -> Any:
        """A plain step, so that the second mini-batch is off-policy; the optimiser's own norms are in float32."""
        taken.append(family.table.weight.grad.clone())
        family.table.weight.data -= family.table.weight.grad
        family.table.weight.grad = None
        return SimpleNamespace(metrics=list)

    learner.optimizer.step = descend
    learner.step(rollouts, plan, PROGRESS)
    assert len(taken) == 2
    return torch.cat(taken)


@pytest.mark.parametrize("term", EVERY, ids=str)
def test_gradients_do_not_depend_on_how_a_step_is_cut(term: dict[str, Any]) -> None:
    """Two mini-batches, each in one micro-batch or in as many as there are rollouts."""
    for mode in ("token-mean", "group-token-mean", "seq-mean-token-mean", "seq-mean-token-sum-const"):
        whole, cut = (gradients(term, mode, budget, double=True) for budget in (1 << 30, 1))
        assert torch.allclose(whole, cut, rtol=0, atol=1e-12)
    whole, cut = (gradients(term, "token-mean", budget, double=False) for budget in (1 << 30, 1))
    assert torch.allclose(whole, cut, rtol=0, atol=1e-6)
    assert whole.abs().max() > 1e-3


def learner(terms: list[dict[str, Any]], family: Any = None) -> Learner:
    return Learner(family or TableFamily(), recipe(algo={"terms": terms}), exact=True)


def test_a_divergence_holds_the_policy_to_where_it_began() -> None:
    """Twenty steps of reward for one token: with the divergence the table stays closer to its start."""
    moved = []
    for coef in (0.0, 0.3):
        kl = {"kind": "kl", "form": "full", "coef": coef}
        one = learner([{"kind": "ppo_clip"}, kl])
        start = one.family.table.weight.detach().clone()
        for number in range(1, 21):
            one.step(rollouts, recipe(algo=one.algo.model_dump()), Progress(step=number, total_steps=20))
        moved.append(float((one.family.table.weight.detach() - start).norm()))
    assert moved[1] < 0.7 * moved[0]


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ({"kind": "kl", "form": "k1"}, r"algo\.terms\.kl: k1 in the loss has no gradient in expectation"),
        ({"kind": "kl"}, r"algo\.terms\.kl\.form: is required"),
        ({"kind": "kl", "form": "k2", "view": "teacher"}, r"\['teacher'\]"),
    ],
)
def test_a_divergence_that_cannot_be_is_refused_at_load(term: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        learner([{"kind": "ppo_clip"}, term])


def test_a_family_without_distributions_is_refused_at_load() -> None:
    class Narrow(TableFamily):
        provides = frozenset({"entropy"})

    with pytest.raises(RecipeError, match=r"distribution"):
        learner([{"kind": "kl", "form": "full"}], Narrow())
