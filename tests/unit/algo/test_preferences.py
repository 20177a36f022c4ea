"""Preference terms: gradients, identities between them, which rows pair, and that no cut of a step changes a thing."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from triune.algo.adjust.reference_point import ReferencePoint
from triune.algo.advantages.versus import Versus
from triune.algo.objective import Loss, Objective
from triune.algo.options import TERMS
from triune.algo.pairs import PairRule, comparable, make
from triune.algo.step import Step
from triune.algo.types import Batch, Credit, Evaluated
from triune.core.errors import RecipeError
from triune.core.schedule import Progress
from triune.core.trajectory import Trajectory
from triune.testing.table import TableFamily, batch_of, recipe, scored, trajectory
from triune.train.learner import Learner

PROGRESS = Progress(step=1, total_steps=10)
REQUIRED: Mapping[str, dict[str, Any]] = {
    "simpo": {"beta": 2.0, "gamma": 0.5},
    "copg": {"beta": 0.5},
    "nash_md": {"beta": 0.1},
    "vpo": {"alpha": 0.3, "sign": "online", "calibration": "chosen"},
}
ALL = {"choose": "all", "ties": "both"}
TERM_LIST: list[dict[str, Any]] = [
    {"kind": "dpo"},
    {"kind": "cdpo", "pairs": ALL, "label_smoothing": 0.2, "margin": 0.1, "margin_per_reward": 0.3},
    {"kind": "robust_dpo", "label_smoothing": 0.2, "pairs": {"choose": "random", "draws": 2}},
    {"kind": "ipo", "pairs": {"choose": "all", "mean": "groups"}},
    {"kind": "ipo", "per": "answer"},
    {"kind": "hinge", "pairs": ALL},
    {"kind": "sppo"},
    {"kind": "simpo", "pairs": ALL},
    {"kind": "orpo"},
    {"kind": "chosen_nll", "per": "token"},
    {"kind": "preference_anchor", "anchor": 0.2},
    {"kind": "vpo"},
    {"kind": "vpo", "sign": "offline", "calibration": "rows"},
    {"kind": "copg"},
    {"kind": "adpo", "reference": "reference"},
    {"kind": "adpo", "reference": "reference", "one_hot": True},
    {"kind": "adpo_adaptive", "reference": "reference", "vocabulary": 9},
    {"kind": "plackett_luce"},
    {"kind": "plackett_luce", "depth": 1},
    {"kind": "lipo"},
    {"kind": "kto", "desirable": 1.3},
    {"kind": "nash_md"},
]  # fmt: skip


def options(term: Mapping[str, Any]) -> dict[str, Any]:
    return {**REQUIRED.get(str(term["kind"]), {}), **term}


def credit(batch: Batch, **fields: Any) -> Credit:
    rows = len(batch.trajectories)
    every = torch.ones(rows, dtype=torch.bool)
    advantage = torch.linspace(-0.4, 0.5, rows)[batch.trajectory] if batch.num_decisions else torch.zeros(0)
    made = {"in_loss": every.clone(), "in_baseline": every.clone(), "point": torch.full((rows,), 0.05)}
    return Credit(advantage, reasons=[""] * rows, degenerate=torch.zeros(1), **{**made, **fields})


class Answers:
    """Two groups of answers of different lengths, one of them not judged, some tied; log-probs at random in float64."""

    def __init__(self, rewards: Sequence[float | None] = (1.0, 0.0, 0.5, 0.5, None, 0.2, 0.9)) -> None:
        sizes, groups = (3, 2, 4, 1, 2, 3, 2), "aaaabbb"
        self.rows = [
            trajectory([1] * size, id=f"{i}", group=group, rank=i, forced=i % 2 == 1)
            for i, (size, group) in enumerate(zip(sizes, groups, strict=True))
        ]
        self.batch, self.rewards = batch_of(self.rows, rewards)
        generator = torch.Generator().manual_seed(3)
        count = self.batch.num_decisions
        self.logp = -torch.rand(count, dtype=torch.float64, generator=generator) - 0.1
        self.reference = -torch.rand(count, dtype=torch.float64, generator=generator) - 0.1

    def loss(self, terms: Sequence[Mapping[str, Any]], logp: Tensor, **fields: Any) -> Loss:
        views = {"reference": Evaluated(self.reference), "old": Evaluated(self.reference)}
        objective = Objective.of([options(term) for term in terms])
        return objective.whole(self.batch, credit(self.batch, **fields), Evaluated(logp), views, self.rewards)

    def gradient(self, *terms: Mapping[str, Any], **fields: Any) -> Tensor:
        logp = self.logp.clone().requires_grad_()
        self.loss(terms, logp, **fields).total.backward()
        assert logp.grad is not None
        return logp.grad


@pytest.fixture
def answers() -> Answers:
    return Answers()


def test_every_preference_term_is_tried() -> None:
    from triune.algo.terms.preference import AnswerTerm

    answer_terms = {name for name in TERMS if issubclass(TERMS[name], AnswerTerm)}
    assert answer_terms <= {str(term["kind"]) for term in TERM_LIST}


@pytest.mark.parametrize("term", TERM_LIST, ids=lambda term: "-".join(map(str, term.values())))
def test_gradient_is_that_of_finite_differences(answers: Answers, term: dict[str, Any]) -> None:
    gradient, step = answers.gradient(term), 1e-5
    assert float(gradient.abs().max()) > 0
    if term["kind"] in ("nash_md", "adpo_adaptive"):
        return  # parts of their value carry no gradient on purpose; see their own tests
    for place in range(len(gradient)):
        ends = []
        for sign in (1, -1):
            moved = answers.logp.clone()
            moved[place] += sign * step
            ends.append(float(answers.loss([term], moved).total))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(gradient[place]), abs=2e-8)


def pair(
    beta: float, term: Mapping[str, Any], rewards: tuple[float, float] = (1.0, 0.0)
) -> tuple[Tensor, Tensor]:
    """The loss of one pair and its gradient with respect to (winner, loser) log-probs; every answer is one token."""
    batch, judged = batch_of([trajectory([1], id=f"{i}", rank=i) for i in range(2)], list(rewards))
    logp = torch.tensor([-1.3, -0.4], dtype=torch.float64, requires_grad=True)
    reference = Evaluated(torch.tensor([-0.9, -1.1], dtype=torch.float64))
    views = {"reference": reference, "old": reference}
    made = Objective.of([{"beta": beta, **term}]) if beta else Objective.of([term])
    loss = made.whole(batch, credit(batch), Evaluated(logp), views, judged).total
    loss.backward()
    assert logp.grad is not None
    return loss.detach(), logp.grad


D = (-1.3 + 0.9) - (-0.4 + 1.1)


def test_gradient_weights_of_the_table() -> None:
    for beta in (0.1, 0.7):
        _, dpo = pair(beta, {"kind": "dpo"})
        weight = beta / (1 + math.exp(beta * D))
        assert torch.allclose(dpo, torch.tensor([-weight, weight], dtype=torch.float64), atol=1e-9, rtol=0)
        _, ipo = pair(beta, {"kind": "ipo", "per": "answer"})
        weight = 2 * (D - 1 / (2 * beta))
        assert torch.allclose(ipo, torch.tensor([weight, -weight], dtype=torch.float64), atol=1e-9, rtol=0)
        _, copg = pair(beta, {"kind": "copg"}, (0.75, 0.25))
        regularised = (0.75 - beta * (-0.4)) - (0.25 - beta * 0.7)
        expected = torch.tensor([-regularised, regularised], dtype=torch.float64)
        assert torch.allclose(copg, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("beta", [0.1, 0.25, 0.5, 1.0])
def test_a_pair_of_adpo_with_all_weight_on_the_winner_is_dpo_to_the_last_digit(beta: float) -> None:
    for rewards in ((1.0, 0.0), (0.0, 1.0)):
        loss, gradient = pair(beta, {"kind": "dpo"}, rewards)
        anchored = {"kind": "adpo", "reference": "reference", "one_hot": True, "tau": 1 / beta}
        other, same = pair(0, anchored, rewards)
        assert float((loss - other).abs()) == 0.0
        assert float((gradient - same).abs().max()) == 0.0
        ranked, slope = pair(beta, {"kind": "plackett_luce"}, rewards)
        assert float(ranked) == pytest.approx(float(loss), abs=1e-12)
        assert torch.allclose(slope, gradient, atol=1e-12)


def test_adpo_against_a_constant_anchor_is_distillation(answers: Answers) -> None:
    """Its gradient with respect to a score is softmax - q."""
    batch, judged = batch_of([trajectory([1], id=f"{i}", rank=i) for i in range(4)], [1.0, 0.0, 0.6, 0.1])
    logp = torch.tensor([-1.0, -2.0, -0.5, -3.0], dtype=torch.float64, requires_grad=True)
    flat = {"old": Evaluated(torch.zeros(4, dtype=torch.float64))}
    term = {"kind": "adpo", "tau": 1.0, "beta_reward": 0.5}
    Objective.of([term]).whole(batch, credit(batch), Evaluated(logp), flat, judged).total.backward()
    reward = torch.tensor([1.0, 0.0, 0.6, 0.1], dtype=torch.float64)
    q = torch.softmax((reward - reward.mean()) / reward.std() / 0.5, 0)
    assert logp.grad is not None
    assert torch.allclose(logp.grad, torch.softmax(logp.detach(), 0) - q, atol=1e-7)


def test_copg_is_ipo_for_rewards_of_a_half_and_leave_one_out_on_policy() -> None:
    for beta in (0.2, 1.0):
        _, copg = pair(beta, {"kind": "copg"}, (0.5, -0.5))
        _, ipo = pair(beta / 2, {"kind": "ipo", "per": "answer"}, (0.5, -0.5))
        assert torch.allclose(copg, ipo * beta / 2, atol=1e-12)
    # Two rollouts of the policy itself, no tie to the reference to speak of: twice the gradient of RLOO.
    _, copg = pair(1e-12, {"kind": "copg"}, (0.9, 0.2))
    rloo = -torch.tensor([0.9 - 0.2, 0.2 - 0.9], dtype=torch.float64) / 2
    assert torch.allclose(copg, 2 * rloo, atol=1e-7)  # rewards are held in 32 bits


def test_rejected_answers_get_no_gradient_from_a_likelihood_and_chosen_ones_are_drawn_up() -> None:
    _, gradient = pair(1.0, {"kind": "chosen_nll"})
    assert gradient.tolist() == [-1.0, 0.0]
    for holds, sides in (("both", (1, 1)), ("chosen", (1, 0)), ("rejected", (0, 1))):
        _, gradient = pair(0.1, {"kind": "preference_anchor", "holds": holds})
        assert (float(gradient[0]) < 0, float(gradient[1]) > 0) == (bool(sides[0]), bool(sides[1]))


def test_nash_md_descends_the_divergence_and_climbs_the_win_probability() -> None:
    """Summed over all answers with their probabilities, the gradient is that of beta KL(pi, ref) - E[A]."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.0, 0.4, -0.3], dtype=torch.float64), 0)
    advantage = torch.tensor([0.2, -0.1, 0.3])
    batch, judged = batch_of([trajectory([i], id=f"{i}", group=f"{i}") for i in range(3)], [0.0] * 3)
    logp = torch.log_softmax(logits, 0)
    objective = Objective.of([{"kind": "nash_md", "beta": 0.4}])
    made = credit(batch)
    made.advantage = advantage
    share = objective.shares(batch, made, judged)["nash_md"]
    share.weight = logp.detach().exp()
    batch.advantage, batch.reward = advantage, judged.total.float()
    views = {"reference": Evaluated(reference)}
    objective(batch, Evaluated(logp), views, {"nash_md": share}, PROGRESS).total.backward()
    found = logits.grad
    logits.grad = None
    logp = torch.log_softmax(logits, 0)
    (0.4 * (logp.exp() * (logp - reference)).sum() - (logp.exp() * advantage).sum()).backward()
    assert found is not None
    assert logits.grad is not None
    assert torch.allclose(found, logits.grad, atol=1e-8)


# -- which rows pair ---------------------------------------------------------------------------------------------------


def paired(rewards: Sequence[float], **rule: Any) -> list[tuple[int, int, float]]:
    batch, judged = batch_of([trajectory([1], id=f"{i}", rank=i) for i in range(len(rewards))], list(rewards))
    eligible = torch.ones(len(rewards), dtype=torch.bool)
    found = make(batch, judged.total, eligible, PairRule(**rule))
    return [
        (a, b, pytest.approx(w)) for (a, b), w in zip(found.rows.tolist(), found.weight.tolist(), strict=True)
    ]


def test_best_against_worst_every_pair_or_some() -> None:
    rewards = [0.2, 1.0, 0.0, 1.0]
    assert paired(rewards) == [(1, 2, 1.0)]
    every = [(1, 0), (0, 2), (3, 0), (1, 2), (3, 2)]
    assert [(a, b) for a, b, _ in paired(rewards, choose="all")] == every
    drawn = [(a, b) for a, b, _ in paired(rewards, choose="random", draws=3)]
    assert len(set(drawn)) == 3
    assert set(drawn) <= set(every)
    assert drawn == [(a, b) for a, b, _ in paired(rewards, choose="random", draws=3)]
    assert len(paired(rewards, choose="random", draws=99)) == 5


def test_ties_make_no_pair_or_one_in_both_directions() -> None:
    assert paired([0.7, 0.7]) == []
    assert paired([0.7, 0.7], ties="both") == [(0, 1, 0.5), (1, 0, 0.5)]
    assert paired([0.7, 0.6], min_gap=0.2) == []
    assert paired([0.7, 0.6], min_gap=0.2, ties="both") == [(0, 1, 0.5), (1, 0, 0.5)]
    assert paired([0.1 + 0.2, 0.3]) == []  # rounding prefers nothing
    # Three answers, two of them equal: three comparisons, of which the tie is one.
    assert [w for *_, w in paired([1.0, 0.0, 0.0], choose="all", ties="both")] == [1 / 3, 1 / 3, 1 / 6, 1 / 6]


def test_a_mean_over_groups_weighs_them_alike() -> None:
    rows = [trajectory([1], id=f"{i}", rank=i, group="a" if i < 3 else "b") for i in range(5)]
    batch, judged = batch_of(rows, [1.0, 0.5, 0.0, 1.0, 0.0])
    eligible = torch.ones(5, dtype=torch.bool)
    by_group = make(batch, judged.total, eligible, PairRule(choose="all", mean="groups"))
    assert by_group.weight.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    by_pair = make(batch, judged.total, eligible, PairRule(choose="all"))
    assert by_pair.weight.tolist() == pytest.approx([1 / 4] * 4)


def test_what_never_pairs(answers: Answers) -> None:
    batch, live = answers.batch, torch.ones(answers.batch.num_decisions, dtype=torch.bool)
    made = credit(batch)
    assert comparable(batch, live, answers.rewards.total, made).tolist() == [True] * 4 + [False, True, True]
    made.in_loss[0] = False
    made.scale = torch.where(batch.trajectory == 1, 0.0, 1.0)
    live = live & (batch.trajectory != 2)
    assert comparable(batch, live, answers.rewards.total, made).tolist() == [False] * 3 + [
        True, False, True, True,
    ]  # fmt: skip
    branch = trajectory([1], id="branch", parent="0", fork=1)
    one, judged = batch_of([branch], [1.0])
    assert not bool(comparable(one, torch.ones(1, dtype=torch.bool), judged.total)[0])


def test_fragments_of_an_episode_are_one_answer() -> None:
    whole = [trajectory([1, 1, 1], id="w", rank=0), trajectory([1, 1], id="l", rank=1)]
    parts = [
        trajectory([1], id="w2", episode="w", rank=0, step_offset=2),
        whole[1],
        trajectory([1, 1], id="w1", episode="w", rank=0),
    ]
    losses, gradients = [], []
    for rows, order, rewards in (
        (whole, [0, 1, 2, 3, 4], [1.0, 0.0]),
        (parts, [2, 3, 4, 0, 1], [1.0, 0.0, 1.0]),
    ):
        batch, judged = batch_of(rows, rewards)
        base = torch.tensor([-1.0, -0.5, -2.0, -0.3, -0.8], dtype=torch.float64)
        logp = base[order].clone().requires_grad_()
        views = {"reference": Evaluated(torch.full((5,), -1.0, dtype=torch.float64))}
        loss = (
            Objective.of([{"kind": "ipo"}]).whole(batch, credit(batch), Evaluated(logp), views, judged).total
        )
        loss.backward()
        assert logp.grad is not None
        losses.append(float(loss.detach()))
        gradients.append(logp.grad[torch.tensor(order).argsort()] if rows is parts else logp.grad)
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-12)


def test_tokens_are_weighed_by_the_scale_of_credit() -> None:
    batch, judged = batch_of(
        [trajectory([1, 1], id="w", rank=0), trajectory([1], id="l", rank=1)], [1.0, 0.0]
    )
    logp = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    views = {"reference": Evaluated(torch.zeros(3, dtype=torch.float64))}
    made = credit(batch, scale=torch.tensor([3.0, 0.5, 1.0]))
    loss = (
        Objective.of([{"kind": "dpo", "beta": 1.0}]).whole(batch, made, Evaluated(logp), views, judged).total
    )
    loss.backward()
    contrast = 3.0 * -1.0 + 0.5 * -2.0 + 0.5
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-contrast)))
    assert logp.grad is not None
    assert (logp.grad / logp.grad[2]).tolist() == pytest.approx([-3.0, -0.5, 1.0])


@pytest.mark.parametrize("term", TERM_LIST, ids=lambda term: "-".join(map(str, term.values())))
def test_nothing_outside_the_loss_matters_and_nothing_left_is_zero(
    answers: Answers, term: dict[str, Any]
) -> None:
    before = answers.gradient(term)
    outside = answers.batch.trajectory == 4  # the answer that nobody could judge
    in_loss = torch.ones(7, dtype=torch.bool)
    in_loss[4] = False
    answers.logp[outside] = -math.inf
    answers.reference[outside] = math.nan
    after = answers.gradient(term, in_loss=in_loss)
    assert bool(after.isfinite().all())
    assert float(after[outside].abs().max()) == 0.0
    rows_alone = term["kind"] in ("vpo", "kto", "nash_md")  # these have other denominators without it
    assert rows_alone or torch.allclose(before, after, atol=1e-12)
    nothing = answers.loss([term], answers.logp.requires_grad_(), in_loss=torch.zeros(7, dtype=torch.bool))
    assert float(nothing.total.detach()) == 0.0
    nothing.total.backward()


def test_pairs_and_groups_without_one_are_counted(answers: Answers) -> None:
    metrics = {m.name: m for m in answers.loss([{"kind": "dpo"}], answers.logp).metrics}
    assert (metrics["pairs"].count, metrics["pairs"].mean) == (2, 1.0)
    assert metrics["pairs/none"].mean == 0.0
    tied = Answers([0.5, 0.5, 0.5, 0.5, None, 0.2, 0.9])
    metrics = {m.name: m for m in tied.loss([{"kind": "dpo", "pairs": {"choose": "all"}}], tied.logp).metrics}
    assert (metrics["pairs"].count, metrics["pairs"].mean, metrics["pairs/none"].mean) == (2, 0.5, 0.5)
    both = {m.name: m for m in tied.loss([{"kind": "dpo", "pairs": ALL}], tied.logp).metrics}
    assert both["pairs"].mean == (6 + 1) / 2


def test_a_pair_is_measured_once_and_by_the_loss_that_compares(answers: Answers) -> None:
    terms = [{"kind": "chosen_nll"}, {"kind": "preference_anchor"}, {"kind": "dpo"}]
    assert answers.loss(terms, answers.logp).metrics == answers.loss(terms[2:], answers.logp).metrics


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(7)), which=st.sampled_from(TERM_LIST))
def test_order_of_rows_does_not_matter(order: list[int], which: dict[str, Any]) -> None:
    answers = Answers()
    before = answers.gradient(which)
    moved = Answers()
    moved.rows = [answers.rows[i] for i in order]
    totals: list[float | None] = [1.0, 0.0, 0.5, 0.5, None, 0.2, 0.9]
    moved.batch, moved.rewards = batch_of(moved.rows, [totals[i] for i in order])
    places = torch.cat([torch.nonzero(answers.batch.trajectory == i)[:, 0] for i in order])
    moved.logp, moved.reference = answers.logp[places], answers.reference[places]
    if which["kind"] == "nash_md":
        return  # its advantages are the test's own, by position
    assert torch.allclose(before[places], moved.gradient(which), atol=1e-12)


# -- KTO and Nash-MD: what surrounds their terms -----------------------------------------------------------------------


def step_of(rows: Sequence[Trajectory], old: Sequence[float], reference: Sequence[float]) -> Step:
    batch, judged = batch_of(rows, [1.0] * len(rows))
    views = {"old": Evaluated(torch.tensor(old)), "reference": Evaluated(torch.tensor(reference))}
    return Step(batch, [scored(row, 1.0) for row in rows], judged, views, PROGRESS, credit(batch, point=None))


def test_the_reference_point_is_a_mean_over_answers_and_never_negative() -> None:
    rows = [
        trajectory([1, 1], id="a"),
        trajectory([1], id="b"),
        trajectory([1], id="m", component="baseline"),
    ]
    step = step_of(rows, [-1.0, -1.0, -1.0, -0.2], [-1.5, -2.0, -0.5, -1.0])
    ReferencePoint()(step)
    assert step.credit is not None
    assert step.credit.point is not None
    assert step.credit.point.tolist() == pytest.approx([(1.5 - 0.5) / 2] * 3)
    ReferencePoint(rows="mismatched")(step)
    assert step.credit.point.tolist() == pytest.approx([0.8] * 3)
    lower = step_of(rows[:2], [-3.0, -1.0, -1.0], [-1.0, -1.0, -1.0])
    ReferencePoint()(lower)
    assert lower.credit is not None
    assert lower.credit.point is not None
    assert lower.credit.point.tolist() == [0.0, 0.0]
    with pytest.raises(RecipeError, match="kind: mismatched"):
        ReferencePoint(rows="mismatched")(step_of(rows[:2], [0.0] * 3, [0.0] * 3))


def test_kto_by_hand_and_without_its_reference_point() -> None:
    batch, judged = batch_of([trajectory([1], id="g"), trajectory([1], id="b", group="h")], [1.0, 0.0])
    views = {"reference": Evaluated(torch.tensor([-1.0, -1.0], dtype=torch.float64))}
    logp = Evaluated(torch.tensor([-0.5, -0.2], dtype=torch.float64))
    term = {"kind": "kto", "beta": 0.4, "desirable": 1.0, "undesirable": 1.5}
    made = credit(batch, point=torch.tensor([0.25, 0.25]))
    found = float(Objective.of([term]).whole(batch, made, logp, views, judged).total)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = (1 - sigmoid(0.4 * (0.5 - 0.25)) + 1.5 * (1 - sigmoid(0.4 * (0.25 - 0.8)))) / 2
    assert found == pytest.approx(expected)
    with pytest.raises(RecipeError, match="reference_point"):
        Objective.of([term]).whole(batch, credit(batch, point=None), logp, views, judged)


def test_versus_is_the_chance_of_beating_the_opponents_rows() -> None:
    rows = [
        trajectory([1], id="a", sample="s", group="s"),
        trajectory([1], id="o1", sample="s", group="s", component="baseline"),
        trajectory([1], id="o2", sample="s", group="s", component="baseline"),
        trajectory([1], id="b", sample="t", group="t"),
        trajectory([1], id="c", sample="s", group="s"),
    ]
    batch, judged = batch_of(rows, [1.0, 0.0, 1.0, 1.0, None])
    made = Versus()(batch, judged, {})
    chance = (1 / (1 + math.exp(-1)) + 0.5) / 2
    assert made.advantage.tolist() == pytest.approx([chance - 0.5, 0.0, 0.0, 0.0, 0.0])
    assert made.degenerate.tolist() == [False, True]
    assert Versus(hard=True)(batch, judged, {}).advantage[0] == pytest.approx(0.25)


# -- ADPO's temperature ------------------------------------------------------------------------------------------------


def test_adaptive_temperature_by_hand() -> None:
    groups = [([1.0, 0.0], -1.0), ([0.5, 0.5], -2.0), ([0.0, 0.0], -0.5)]
    rows = [trajectory([1], id=f"{g}{i}", rank=i, group=str(g)) for g in range(3) for i in range(2)]
    batch, judged = batch_of(rows, [r for rewards, _ in groups for r in rewards])
    logp = torch.tensor([x for _, x in groups for _ in range(2)], dtype=torch.float64)
    logp[0] += 0.4
    anchor = torch.full((6,), -1.0, dtype=torch.float64)
    term = {"kind": "adpo_adaptive", "vocabulary": 100, "tau": 0.8}
    logp.requires_grad_()
    views = {"old": Evaluated(anchor)}
    loss = Objective.of([term]).whole(batch, credit(batch), Evaluated(logp), views, judged).total
    loss.backward()
    expected, slopes = 0.0, list[Tensor]()
    scores = logp.detach()
    for number, (rewards, _) in enumerate(groups):
        mine = scores[2 * number : 2 * number + 2]
        unsure = float(-mine.mean()) / math.log(100)
        right = {0: 1.0, 1: 1.0, 2: 0.0}[number]  # means .5, .5 and 0: the greatest, the greatest, the least
        tau = 0.8 * (1 + 0.5 * unsure + 0.5 * (1 - unsure) * (1 - right))
        reward = torch.tensor(rewards, dtype=torch.float64)
        q = torch.softmax((reward - reward.mean()) / (reward.std() + 1e-8) / 0.5, 0)
        expected -= float((q * torch.log_softmax((mine + 1.0) / tau, 0)).sum()) / 3
        slopes.append((torch.softmax((mine + 1.0) / tau, 0) - q) / tau / 3)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    assert logp.grad is not None
    assert torch.allclose(logp.grad, torch.cat(slopes), atol=1e-7)


# -- the learner -------------------------------------------------------------------------------------------------------


class Anchored(TableFamily):
    """A table whose reference is the table that it began with."""

    views: ClassVar[frozenset[str]] = frozenset({"frozen", "corrupted"})

    def __init__(self, vocabulary: int = 5, seed: int = 0) -> None:
        super().__init__(vocabulary, seed)
        self.start = copy.deepcopy(self.table)
        for parameter in self.start.parameters():
            parameter.requires_grad_(False)
        with torch.no_grad():
            self.table.weight += 0.3 * torch.randn(
                self.table.weight.shape, generator=torch.Generator().manual_seed(9)
            )

    def evaluate(
        self, batch: Batch, *, want: frozenset[str] = frozenset(), view: str = "current"
    ) -> Evaluated:
        if view != "reference":
            return super().evaluate(batch, want=want)
        now, self.table = self.table, self.start
        try:
            return super().evaluate(batch, want=want)
        finally:
            self.table = now


def rollouts(seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    made = []
    for group in range(6):
        for rank in range(int(rng.integers(2, 5))):
            ids = rng.integers(0, 5, int(rng.integers(1, 6))).tolist()
            placed = bool(rng.integers(2))
            row = trajectory(ids, prompt=[group % 5], id=f"{group}/{rank}", sample=str(group), group=str(group),
                             rank=rank, forced=placed, family=Anchored())  # fmt: skip
            reward = None if rng.random() < 0.15 else float(rng.integers(0, 4)) / 3
            made.append(scored(row, reward))
    return made


@pytest.mark.parametrize("term", TERM_LIST, ids=lambda term: "-".join(map(str, term.values())))
def test_no_cut_of_a_step_changes_the_update(term: dict[str, Any]) -> None:
    tables, losses = [], []
    for budget, minibatches in ((1 << 30, 1), (31, 1), (1, 1)):
        family = Anchored()
        algo: dict[str, Any] = {"terms": [options(term)], "advantage": {"kind": "group"}}
        if term["kind"] == "kto":
            algo["adjust"] = {"point": {"kind": "reference_point"}}
        made = recipe(algo=algo, token_budget=budget, minibatches_per_step=minibatches)
        learner = Learner(family, made, exact=True)
        report = learner.step(lambda: rollouts(5), made, PROGRESS)
        tables.append(family.table.weight.detach().clone())
        losses.append(next(m.mean for m in report.metrics if m.name == f"loss/{term['kind']}"))
    assert not torch.equal(tables[0], Anchored().table.weight)
    for other, loss in zip(tables[1:], losses[1:], strict=True):
        assert torch.allclose(tables[0], other, atol=1e-6)
        assert loss == pytest.approx(losses[0], abs=1e-6)


def test_pairs_of_each_mini_batch_have_their_own_denominator() -> None:
    family = Anchored()
    made = recipe(algo={"terms": [{"kind": "dpo", "pairs": {"choose": "all"}}]}, minibatches_per_step=2)
    report = Learner(family, made, exact=True).step(lambda: rollouts(5), made, PROGRESS)
    assert next(m for m in report.metrics if m.name == "pairs").count == 6


def test_the_old_policy_is_evaluated_for_placed_rows_only_where_it_is_asked_for() -> None:
    def passes(term: dict[str, Any]) -> int:
        family = Anchored()
        made = recipe(algo={"terms": [options(term)]})
        rows = rollouts(5)
        learner = Learner(family, made, exact=True)
        family.evaluations = 0
        learner.step(lambda: rows, made, PROGRESS)
        return family.evaluations

    assert passes({"kind": "simpo"}) == 1
    assert passes({"kind": "dpo"}) == 2
    assert passes({"kind": "adpo"}) == 2


@pytest.mark.parametrize("kind", ["simpo", "copg", "vpo", "cdpo", "robust_dpo", "adpo_adaptive", "nash_md"])
def test_constants_that_no_source_states_are_required(kind: str) -> None:
    with pytest.raises(RecipeError, match="required"):
        Objective.of([{"kind": kind}])


def test_rewards_of_a_list_that_are_all_equal() -> None:
    """Nothing is ranked, but ADPO's target is then uniform: it draws back to the anchor."""
    tied = Answers([0.5] * 7)
    for kind in ("plackett_luce", "lipo"):
        assert float(tied.gradient({"kind": kind}).abs().max()) == 0.0
    assert float(tied.gradient({"kind": "adpo", "reference": "reference"}).abs().max()) > 0
    failed = Answers([0.0, 0.0, 0.0, 0.0, 1.0, 0.2, 0.9])
    gradient = failed.gradient({"kind": "adpo", "reference": "reference", "drop_failed": True})
    assert float(gradient[failed.batch.trajectory < 4].abs().max()) == 0.0
    assert float(gradient[failed.batch.trajectory >= 4].abs().max()) > 0


def test_no_answer_at_all() -> None:
    empty: list[Trajectory] = [trajectory([], id="e", rank=0), trajectory([1], id="f", rank=1)]
    batch, judged = batch_of(empty, [1.0, 0.0])
    views = {"reference": Evaluated(torch.zeros(1))}
    logp = torch.zeros(1, requires_grad=True)
    loss = Objective.of([{"kind": "dpo"}]).whole(batch, credit(batch), Evaluated(logp), views, judged).total
    assert float(loss.detach()) == 0.0
