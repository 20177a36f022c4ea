"""Perception terms: which branch each one moves and how far, what they refuse, and that a policy learns to look by them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from triune.algo.objective import Objective
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.errors import RecipeError
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, Scored
from triune.testing.models import picture, sample, tiny
from triune.testing.table import TableFamily, batch_of, recipe, scored, trajectory
from triune.train.batching import join
from triune.train.learner import Learner
from triune.train.views import Views

NOW = Progress(step=1, total_steps=10)
MASKED = {"kind": "corrupted"}
FORMS = ("k3", "k3_swapped", "full")


def everything(batch: Batch) -> Credit:
    ones = torch.ones(len(batch.trajectories), dtype=torch.bool)
    zero = torch.zeros(batch.num_decisions)
    return Credit(zero, ones, ones, [""] * len(ones), torch.zeros(1, dtype=torch.bool))


def loss(
    term: Mapping[str, Any],
    batch: Batch,
    current: Evaluated,
    masked: Evaluated,
    rewards: Rewards | None = None,
    credit: Credit | None = None,
) -> tuple[Tensor, list[Metric]]:
    found = Objective.of([term]).whole(
        batch, credit or everything(batch), current, {"masked": masked}, rewards
    )
    return found.total, found.metrics


def rows(*lengths: int, **fields: Any) -> Batch:
    made = [trajectory([1] * n, id=f"{i}", **fields) for i, n in enumerate(lengths)]
    return batch_of(made, [1.0] * len(made))[0]


def drawn(count: int, seed: int = 0, far: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logp = -torch.rand(count, generator=generator, dtype=torch.float64) - 0.1
    return logp, logp + far * torch.randn(count, generator=generator, dtype=torch.float64)


# -- the gradient on either branch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("push", ["apart", "together"])
@pytest.mark.parametrize("form", ["k3", "k3_swapped"])
def test_the_gradient_on_either_branch_is_the_documented_one(form: str, push: str) -> None:
    batch = rows(3, 5)
    p, q = (values.requires_grad_() for values in drawn(8))
    loss(
        {"kind": "perception_kl", "form": form, "push": push, "coef": 1.0}, batch, Evaluated(p), Evaluated(q)
    )[0].backward()
    x = (q - p).detach()
    of_p = 1 - x.exp() if form == "k3" else (-x).exp() - 1
    sign = -1 if push == "apart" else 1
    assert p.grad is not None
    assert q.grad is not None
    weight = float(torch.tensor(1 / 8))  # weights are kept in 32 bits
    assert (p.grad - sign * weight * of_p).abs().max() < 1e-9
    assert (q.grad + sign * weight * of_p).abs().max() < 1e-9


def test_the_expected_gradient_of_k3_is_that_of_the_other_divergence() -> None:
    """Over all outcomes of a categorical, on either branch."""
    generator = torch.Generator().manual_seed(0)
    a, b = ((torch.randn(4, generator=generator) / 2).double().requires_grad_() for _ in range(2))
    p, q = a.log_softmax(0), b.log_softmax(0)
    batch = rows(*[1] * 4)
    credit = everything(batch)
    objective = Objective.of([{"kind": "perception_kl", "coef": 1.0, "push": "together"}])
    share = objective.shares(batch, credit, Rewards(torch.zeros(4), torch.zeros(4)))
    share["perception_kl"].weight = p.detach().exp()  # each outcome as often as it is drawn
    total = objective(batch, Evaluated(p), {"masked": Evaluated(q)}, share, NOW).total
    on_p, on_q = torch.autograd.grad(total, (a, b), retain_graph=True)
    backward = torch.autograd.grad((q.exp() * (q - p)).sum(), a, retain_graph=True)[0]
    forward = torch.autograd.grad((p.exp() * (p - q)).sum(), b)[0]
    assert torch.allclose(on_p, backward, atol=1e-12)
    assert torch.allclose(on_q, forward, atol=1e-12)
    assert float(total.detach()) == pytest.approx(float((p.exp() * (p - q)).sum().detach()))


def test_what_the_sampled_entropy_of_either_branch_really_moves() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    p, q = a.log_softmax(0), b.log_softmax(0)
    batch = rows(*[1] * 4)
    for view, wanted in (("current", torch.zeros(4).double()), ("masked", q.exp() - p.exp())):
        term = {"kind": "branch_entropy", "view": view, "form": "sampled", "coef": 1.0}
        objective = Objective.of([term])
        share = objective.shares(batch, everything(batch), Rewards(torch.zeros(4), torch.zeros(4)))
        share["branch_entropy"].weight = p.detach().exp()
        total = objective(batch, Evaluated(p), {"masked": Evaluated(q)}, share, NOW).total
        moved = torch.autograd.grad(total, a if view == "current" else b, retain_graph=True)[0]
        assert torch.allclose(moved, wanted, atol=1e-12)  # noise on one, towards the other on the other


def double(seed: int = 0) -> TableFamily:
    family = TableFamily(seed=seed)
    for module in family.modules().values():
        module.double()
    return family


ROLLOUTS = [
    trajectory([1, 2, 3], prompt=(1,), id="a", group="g", media=["x"]),
    trajectory([4], prompt=(2,), id="b", group="g", media=["y"]),
    trajectory([2, 2], prompt=(3,), id="c", group="h"),
]

TERMS: list[dict[str, Any]] = [
    *({"kind": "perception_kl", "form": form, "coef": 0.7} for form in FORMS),
    {"kind": "perception_kl", "push": "together", "coef": 0.7, "clip": 0.2},
    {"kind": "branch_entropy", "view": "masked", "form": "exact", "coef": 0.3},
    {"kind": "branch_entropy", "view": "masked", "form": "sampled", "coef": 0.3},
    {"kind": "branch_entropy", "view": "current", "form": "exact", "coef": 0.3},
]


@pytest.mark.parametrize("mode", [{}, {"recompute": True}, {"gradient": True}])
@pytest.mark.parametrize("term", TERMS, ids=lambda t: "-".join(map(str, t.values())))
def test_finite_differences_of_every_mode(term: dict[str, Any], mode: dict[str, bool]) -> None:
    """Without gradient the view is a constant: differences are taken with it held. With gradient they are not."""
    family = double()
    views = Views(family, 0, exact=False)
    objective = Objective.of([term])
    declared = recipe(algo={"views": {"masked": {**MASKED, **mode}}}).algo.parts("views")  # type: ignore[attr-defined]
    if "masked.gradient" in objective.needs and not mode.get("gradient"):
        with pytest.raises(RecipeError, match=r"carries no gradient.*algo\.views\.masked\.gradient: true"):
            views.need(declared, objective.needs)
        return
    views.need(declared, objective.needs)
    batch = family.pack(ROLLOUTS)
    still = views.step([batch], join([batch]), NOW)

    def value(held: Mapping[str, Evaluated] | None = None) -> Tensor:
        current = family.evaluate(batch, want=views.extras)
        seen = {**still, **(held if held is not None else views.now(batch))}
        return objective.whole(batch, everything(batch), current, seen).total

    total = value()
    family.table.zero_grad()
    total.backward()
    assert family.table.weight.grad is not None
    gradient = family.table.weight.grad.clone()
    live = {} if mode.get("gradient") else views.now(batch)
    assert not any(e.logp.requires_grad for e in {**still, **live}.values())
    assert ("masked" in views.live) == (bool(mode) or term.get("form") == "full") or term.get(
        "view"
    ) == "current"
    step, table = 1e-6, family.table.weight.data
    for place in torch.cartesian_prod(torch.arange(5), torch.arange(5)).tolist():
        sides = []
        for sign in (1, -1):
            table[tuple(place)] += sign * step
            with torch.no_grad():
                sides.append(float(value(None if mode.get("gradient") else live)))
            table[tuple(place)] -= sign * step
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(float(gradient[tuple(place)]), abs=1e-8)
    # Row 0 is what stands for a picture that is gone: only the view's own branch reads it.
    assert bool(gradient[0].any()) == (mode.get("gradient", False) and term.get("view") != "current")


def test_a_vision_language_model_has_the_gradient_of_finite_differences() -> None:
    """Through pictures, tower and decoder, along a random direction, in 32 bits."""
    from triune.testing.models import demand, talker, trajectories

    family = tiny("nano")
    samples = [sample("one", picture(seed=1)), sample("two", picture(seed=2), picture(seed=3))]
    family.begin_step(samples)
    for one in samples:
        family.check(one)
    rollouts = trajectories(talker(family, max_tokens=5).generate(samples, demand(2)))
    generator = torch.Generator().manual_seed(0)
    parameters = [p for m in family.modules().values() for p in m.parameters()]
    direction = [torch.randn(p.shape, generator=generator) * p.detach().std() for p in parameters]
    batch = family.pack(rollouts)
    for mode, form in (
        ({}, "k3"),
        ({"recompute": True}, "full"),
        ({"gradient": True}, "k3"),
        ({"gradient": True}, "full"),
    ):
        objective = Objective.of([{"kind": "perception_kl", "form": form, "coef": 1.0}])
        views = Views(family, 0, exact=False)
        options = {**MASKED, **mode, "corruption": {"kind": "patches", "patch": 4}}
        views.need(recipe(algo={"views": {"masked": options}}).algo.parts("views"), objective.needs)  # type: ignore[attr-defined]
        still = views.step([batch], join([batch]), NOW)

        def value(held: Mapping[str, Evaluated]) -> Tensor:
            family.pictures.forget_features()
            current = family.evaluate(batch, want=views.extras)  # noqa: B023
            seen = held or {**still, **views.now(batch)}  # noqa: B023
            return objective.whole(batch, everything(batch), current, seen).total  # noqa: B023

        family.model.zero_grad()
        value({}).backward()
        slope = sum(
            float((p.grad * d).sum())
            for p, d in zip(parameters, direction, strict=True)
            if p.grad is not None
        )
        held = {} if "gradient" in mode else {**still, **views.now(batch)}
        step, sides = 2e-3, []
        with torch.no_grad():
            for sign in (1, -2, 1):  # there, to the other side, and back
                for parameter, along in zip(parameters, direction, strict=True):
                    parameter.add_(sign * step * along)
                sides.append(float(value(held)))
        assert abs(slope) > 1e-3
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(slope, rel=0.03), (mode, form)


# -- what counts -----------------------------------------------------------------------------------------------------------


def test_bounds_are_where_the_gradient_ends_and_are_reported() -> None:
    batch = rows(4, media=["x"])
    p = torch.tensor([-0.1, -30.0, -0.1, -1.0], dtype=torch.float64).requires_grad_()
    q = torch.tensor([-40.0, -0.1, -0.1, -2.0], dtype=torch.float64).requires_grad_()
    total, metrics = loss({"kind": "perception_kl", "coef": 1.0}, batch, Evaluated(p), Evaluated(q))
    total.backward()
    assert p.grad is not None
    assert (p.grad != 0).tolist() == [False, False, False, True]
    found = {m.name: m for m in metrics}
    assert found["perception/kl"].max == 10
    assert found["perception/bounded"].mean == 0.5
    assert found["perception/raised"].mean == 0.5
    assert found["perception/kl"].label("view") == "masked"
    assert found["perception/kl"].label("source") == "source"


def test_what_is_outside_the_loss_may_be_anything() -> None:
    batch = rows(2, 2)
    credit = everything(batch)
    credit.in_loss[1] = False
    p = torch.tensor([-0.5, -0.7, float("-inf"), float("nan")]).requires_grad_()
    q = torch.tensor([-0.9, -0.6, float("nan"), float("-inf")]).requires_grad_()
    said = torch.full((4, 3), -1.0986)
    said[2:] = float("nan")
    for form in FORMS:
        of = (Evaluated(v, extras={"distribution": said}) for v in (p, q))
        total, _ = loss({"kind": "perception_kl", "form": form}, batch, *of, credit=credit)
        assert torch.isfinite(total)
        if form != "full":
            assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(total, (p, q)))
    credit.in_loss[:] = False
    total, metrics = loss({"kind": "perception_kl"}, batch, Evaluated(p), Evaluated(q), credit=credit)
    assert float(total.detach()) == 0
    assert total.requires_grad
    assert not metrics


def test_choices_that_neither_branch_can_make_add_nothing() -> None:
    banned = torch.tensor([[0.5, float("-inf"), 0.1]]).double()
    p, q = (banned.clone() + torch.tensor([[shift, 0.0, 0.0]]) for shift in (0.0, 1.0))
    a = p.requires_grad_()
    current, masked = (
        Evaluated(t.log_softmax(-1)[:, 0], extras={"distribution": t.log_softmax(-1)}) for t in (a, q)
    )
    total, _ = loss({"kind": "perception_kl", "form": "full", "coef": 1.0}, rows(1), current, masked)
    real = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p[:, [0, 2]]),
        torch.distributions.Categorical(logits=q[:, [0, 2]]),
    )
    assert float(-total.detach()) == pytest.approx(float(real.detach()))
    total.backward()
    assert a.grad is not None
    assert bool(torch.isfinite(a.grad).all())


def test_wrong_rollouts_count_as_the_weighting_says_and_stay_in_the_denominator() -> None:
    batch = rows(2, 2)
    p, q = drawn(4)
    x = q - p
    value = x.exp() - x - 1
    judged = Rewards(torch.zeros(2).double(), torch.zeros(4), correct=torch.tensor([1.0, 0.0]).double())
    for weighting, wrong in (("all", 1.0), ("correct_only", 0.0), ("weighted", 0.1)):
        term = {"kind": "perception_kl", "weighting": weighting, "coef": 1.0}
        total, _ = loss(term, batch, Evaluated(p), Evaluated(q), judged)
        assert float(-total) == pytest.approx(float(value[:2].sum() + wrong * value[2:].sum()) / 4)
    with pytest.raises(ValueError, match="which rollouts are correct"):
        loss({"kind": "perception_kl", "weighting": "correct_only"}, batch, Evaluated(p), Evaluated(q))


def test_the_largest_decisions_of_every_rollout_are_kept() -> None:
    batch = rows(10, 5)
    p, q = drawn(15, far=1.0)
    x = q - p
    value = x.exp() - x - 1
    total, _ = loss({"kind": "perception_kl", "top_p": 0.2, "coef": 1.0}, batch, Evaluated(p), Evaluated(q))
    kept = value[:10].sort().values[-2:].sum() + value[10:].max()
    assert float(-total) == pytest.approx(float(kept) / 15, rel=1e-6)
    total, _ = loss({"kind": "perception_kl", "clip": 0.2, "coef": 1.0}, batch, Evaluated(p), Evaluated(q))
    assert float(-total) == pytest.approx(float(value.clamp(max=0.2).mean()), rel=1e-6)


def test_gamma_may_follow_a_schedule() -> None:
    term = {"kind": "perception_kl", "coef": {"kind": "linear", "start": 0.02, "end": 0.0, "until": 0.5}}
    (made,) = Objective.of([term]).terms.values()
    assert [made.coefficient(Progress(step=s, total_steps=100)) for s in (25, 50, 100)] == pytest.approx(
        [0.01, 0, 0]
    )


# -- in the learner ----------------------------------------------------------------------------------------------------------


def step_of(algo: dict[str, Any], budget: int = 1 << 30, **train: Any) -> tuple[TableFamily, list[Metric]]:
    family = TableFamily()
    plan = recipe(algo=algo, token_budget=budget, **train)
    made = [t.model_copy(update={"decisions": trajectory(
        t.payload.arrays["ids"][1:].tolist(), prompt=t.payload.arrays["ids"][:1].tolist(), family=family
    ).decisions}) for t in ROLLOUTS]  # fmt: skip
    learner = Learner(family, plan, exact=True)
    report = learner.step(
        lambda: [scored(t, r) for t, r in zip(made, (1.0, 0.0, 1.0), strict=True)], plan, NOW
    )
    return family, report.metrics


DOUBLE = {
    "terms": {
        "policy": {"kind": "ppo_clip"},
        "perception": {"kind": "perception_kl", "coef": 0.5, "form": "full", "top_p": 0.5},
        "masked": {"kind": "branch_entropy", "view": "masked", "coef": 0.1},
    },
    "views": {"masked": {**MASKED, "gradient": True}},
}


def test_no_split_into_micro_batches_changes_an_update() -> None:
    whole, apart = (step_of(DOUBLE, budget)[0].table.weight for budget in (1 << 30, 4))
    assert (whole - apart).abs().max() < 1e-6


def test_a_live_view_sees_the_weights_of_the_moment() -> None:
    """With two mini-batches, a view that is recomputed differs in the second from one that is not."""
    found = {}
    for name, mode in {"once": {}, "recompute": {"recompute": True}, "gradient": {"gradient": True}}.items():
        algo = {"terms": [{"kind": "perception_kl", "coef": 1.0}], "views": {"masked": {**MASKED, **mode}}}
        family, metrics = step_of(algo, minibatches_per_step=2, prompts_per_step=2)
        found[name] = family.table.weight.detach().clone()
        passes = next(m.mean for m in metrics if m.name == "view/passes")
        assert passes == 1
    first = TableFamily().table.weight
    assert not torch.equal(found["once"], found["gradient"])
    assert bool((found["gradient"][0] != first[0]).any())
    assert torch.equal(found["once"][0], found["recompute"][0])


def test_a_rollout_without_a_picture_has_no_divergence_and_is_seen_by_the_monitor() -> None:
    terms = [{"kind": "perception_kl"}, {"kind": "branch_entropy", "view": "masked", "coef": 0.0}]
    algo = {"terms": terms, "views": {"masked": MASKED}}
    _, metrics = step_of(algo)
    found = {m.name: m for m in metrics}
    assert found["perception/kl"].min == 0
    assert {"branch/entropy", "perception/entropy", "perception/surprise"} <= found.keys()


@pytest.mark.parametrize(
    ("algo", "message"),
    [
        ({"terms": [{"kind": "perception_kl"}]}, r"needs \['masked'\]"),
        (
            {"terms": [{"kind": "branch_entropy", "view": "masked"}], "views": {"masked": MASKED}},
            "carries no gradient",
        ),
        ({"terms": [{"kind": "ppo_clip"}], "views": {"entropy": MASKED}}, "cannot have this name"),
    ],
)
def test_what_cannot_be_had_is_refused_when_the_run_is_set_up(algo: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Learner(TableFamily(), recipe(algo=algo), exact=True)


def test_a_policy_without_pictures_names_those_that_have() -> None:
    from triune.testing.actor import ActorFamily, ActorOptions

    algo = {"terms": [{"kind": "perception_kl"}], "views": {"masked": MASKED}}
    with pytest.raises(
        RecipeError, match=r"'corrupted', which this policy cannot give.*Policies that can: language"
    ):
        Learner(ActorFamily(ActorOptions()), recipe(algo=algo), exact=True)


def test_a_stage_to_come_is_checked_when_the_run_is_set_up() -> None:
    plan = recipe().model_dump()
    plan["stages"] = [{"until": 0.5, "overrides": {"algo.terms.late": {"kind": "perception_kl"}}}]
    with pytest.raises(RecipeError, match=r"needs \['masked'\]"):
        Learner(TableFamily(), type(recipe()).model_validate(plan), exact=True)


def test_a_reference_survives_a_resume() -> None:
    """A run that is stopped and resumed has the reference of its start, whether it moves or not."""
    for sync in (0, 2):
        reference = {"kind": "frozen", "sync_every": sync, "mix": 0.5}
        terms = [{"kind": "ppo_clip"}, {"kind": "kl", "form": "k2"}]
        algo = {"terms": terms, "views": {"reference": reference}}
        plan = recipe(algo=algo)

        def steps(learner: Learner, numbers: Sequence[int]) -> None:
            for number in numbers:
                made = [
                    trajectory([1, 2, 3], prompt=(1,), id=f"{i}", family=learner.family) for i in range(2)
                ]  # type: ignore[arg-type]
                rows = [scored(t, float(i)) for i, t in enumerate(made)]
                learner.step(lambda: rows, plan, Progress(step=number, total_steps=10))  # noqa: B023

        whole = Learner(TableFamily(), plan, exact=True)
        steps(whole, range(1, 4))
        state, weights = copy.deepcopy(whole.state()), whole.family.table.weight.detach().clone()  # type: ignore[attr-defined]
        steps(whole, range(4, 7))
        again = Learner(TableFamily(), plan, exact=True)
        again.family.table.weight.data.copy_(weights)  # type: ignore[attr-defined]
        again.restore(state)
        steps(again, range(4, 7))
        assert torch.equal(whole.family.table.weight, again.family.table.weight)  # type: ignore[attr-defined]
        other = Learner(TableFamily(seed=1), plan, exact=True)
        if not sync:
            with pytest.raises(RecipeError, match=r"algo\.views\.reference: .*began with"):
                other.restore(state)


# -- learning ----------------------------------------------------------------------------------------------------------------

SHARES = torch.tensor([0.7, 0.2, 0.1])
"""How often a drawn shape is red, green, blue: what an answer can be right by without a look."""


class Drawn(TableFamily):
    """Says the colour (1, 2, 3) of a drawn shape, by a prior that every answer shares and what the picture adds."""

    def __init__(self) -> None:
        super().__init__(4)
        self.prior = nn.Embedding(1, 4)
        with torch.no_grad():
            self.table.weight.zero_()  # blind
            self.prior.weight[0] = torch.tensor([-8.0, 2.0, 0.0, 0.0])

    def modules(self) -> Mapping[str, nn.Module]:
        return {"table": self.table, "prior": self.prior, "critic": self.critic}

    def score(self, batch: Batch, want: frozenset[str], blank: bool = False) -> Evaluated:
        ids = torch.tensor([t.payload.arrays["ids"].tolist() for t in batch.trajectories])
        said = self.says(torch.zeros_like(ids[:, 0]) if blank else ids[:, 0])
        return Evaluated(said.gather(1, ids[:, 1:])[:, 0], torch.special.entr(said.exp()).sum(-1))

    def says(self, pictures: Tensor) -> Tensor:
        return (self.prior.weight + self.table(pictures)).log_softmax(-1)


@functools.cache
def trained(
    gamma: float, seed: int, gradient: bool = False, steps: int = 50
) -> tuple[float, float, list[float]]:
    """D and the accuracy on shapes that are not red after training, and D of every step."""
    family, generator = Drawn(), torch.Generator().manual_seed(seed)
    algo = {
        "terms": {"policy": {"kind": "ppo_clip"}, "perception": {"kind": "perception_kl", "coef": gamma}},
        "views": {"masked": {**MASKED, "gradient": gradient}},
    }
    optimizer = {"lr": 0.05, "lr_by_module": {"prior": 0.01}, "warmup_fraction": 0.0, "weight_decay": 0.0}
    plan = recipe(algo=algo, total_steps=steps, optimizer=optimizer)
    learner, curve = Learner(family, plan, exact=True), []
    for step in range(1, steps + 1):
        shown = (torch.multinomial(SHARES, 6, replacement=True, generator=generator) + 1).tolist()
        judged: list[Scored] = []
        for group, colour in enumerate(shown):
            said = family.says(torch.tensor([colour])).detach()[0]
            for rank, answer in enumerate(
                torch.multinomial(said.exp(), 6, replacement=True, generator=generator).tolist()
            ):
                drawn_at = {"prompt": [colour], "media": ["x"], "logp": [float(said[answer])]}
                one = trajectory([answer], id=f"{group}-{rank}", group=f"{group}", **drawn_at)
                judged.append(scored(one, float(answer == colour)))
        report = learner.step(lambda: judged, plan, Progress(step=step, total_steps=steps))  # noqa: B023
        curve.append(next(m.mean for m in report.metrics if m.name == "perception/kl"))
    with torch.no_grad():
        said, blank = family.says(torch.arange(1, 4)), family.says(torch.zeros(1).long())
        apart = float((SHARES * (said.exp() * (said - blank)).sum(-1)).sum())
        right = said.exp()[torch.arange(3), torch.arange(1, 4)]
    return apart, float((SHARES[1:] * right[1:]).sum() / SHARES[1:].sum()), curve


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_policy_looks_more_with_the_term_than_without(seed: int) -> None:
    apart, accuracy, curve = trained(0.3, seed, gradient=True)
    control, without, also = trained(0.0, seed)
    assert curve[0] == also[0] == 0  # a policy that ignores the picture has no divergence at all
    assert apart > 3 * control
    assert accuracy > without


def test_too_much_of_it_collapses() -> None:
    """Both branches pushed apart, and nothing that holds entropies down: D runs away and the answers are lost."""
    apart, accuracy, _ = trained(10.0, 0, gradient=True)
    control, without, _ = trained(0.0, 0)
    assert apart > 2 * control
    assert accuracy < without - 0.3
