from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from triune.core.errors import RecipeError
from triune.core.recipe import Recipe
from triune.core.schedule import Progress
from triune.core.trajectory import Trajectory
from triune.core.verdict import Component, RewardEvent, Verdict
from triune.monitor.metric import Scored
from triune.testing.table import TableFamily, batch_of, recipe, scored, trajectory
from triune.train.batching import Budget, per_decision, rewards, split
from triune.train.learner import Learner
from triune.train.update import Report

FIRST = Progress(step=1, total_steps=10)


class Watched(Learner):
    """A learner whose optimiser's inputs are kept: one list of gradients per optimiser step."""

    def __init__(self, family: TableFamily, plan: Recipe, exact: bool = True) -> None:
        super().__init__(family, plan, exact)
        self.gradients: list[list[Tensor]] = []
        self.optimizer.adamw.register_step_pre_hook(self._keep)

    def _keep(self, adamw: Any, args: Any, kwargs: Any) -> None:
        found = [p.grad.clone() for g in adamw.param_groups for p in g["params"] if p.grad is not None]
        self.gradients.append(found)


def run(
    rows: Sequence[Scored], *, exact: bool = True, progress: Progress = FIRST, **options: Any
) -> tuple[Watched, Report]:
    plan = recipe(**options)
    learner = Watched(TableFamily(), plan, exact)
    return learner, learner.step(lambda: rows, plan.at(progress), progress)


def group(name: str, totals: Sequence[float | None], size: int = 3, **fields: Any) -> list[Scored]:
    """Rollouts that the initial table sampled; their ids differ, so that no gradient cancels."""
    family, fields = TableFamily(), {"sample": name} | fields
    return [
        scored(
            trajectory(
                [(i + k) % 5 for k in range(size)], id=f"{name}{i}", group=name, family=family, **fields
            ),
            total,
        )
        for i, total in enumerate(totals)
    ]


def found(report: Report, name: str, **labels: str) -> float:
    (metric,) = [
        m for m in report.metrics if m.name == name and all(m.label(k) == v for k, v in labels.items())
    ]
    return metric.mean


# -- how a step is cut up ------------------------------------------------------------------------------------------


def weigh(many: Sequence[Trajectory]) -> tuple[int, int]:
    """A group's prompt of 4 tokens once, and its decisions; one vision token per rollout."""
    groups = {t.group for t in many}
    return 4 * len(groups) + sum(len(t.decisions) for t in many), len(many)


def names(rows: Sequence[Scored], parts: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[rows[i].trajectory.id for i in part] for part in parts]


def test_groups_stay_whole_and_are_balanced_under_the_budget() -> None:
    rows = [one for name, n in zip("abcd", (6, 2, 4, 4), strict=True) for one in group(name, [0] * n)]
    ordered, parts, minibatches, over = split(rows, weigh, 1, Budget(1 << 30))
    assert (ordered, parts, minibatches, over) == (rows, [[*range(16)]], [[0]], 0)
    # 22, 10, 16 and 16 tokens: two of 32 each hold them, where filling in order would take three.
    ordered, parts, minibatches, _ = split(rows, weigh, 1, Budget(32))
    assert [weigh([ordered[i].trajectory for i in part])[0] for part in parts] == [32, 32]
    assert [{n[0] for n in part} for part in names(ordered, parts)] == [{"a", "b"}, {"c", "d"}]
    # The vision budget counts as well: 16 rollouts in micro-batches of 8 at most.
    _, parts, _, _ = split(rows, weigh, 1, Budget(1 << 30, vision=8))
    assert sorted(map(len, parts)) == [8, 8]


def test_a_group_over_the_budget_is_split_and_a_rollout_over_it_is_counted() -> None:
    rows = [*group("a", [0] * 8), *group("b", [0], size=40), *group("c", [0, 1])]
    ordered, parts, minibatches, over = split(rows, weigh, 1, Budget(16))
    assert sorted(names(ordered, parts)) == [
        ["a0", "a1", "a2", "a3"],
        ["a4", "a5", "a6", "a7"],
        ["b0"],
        ["c0", "c1"],
    ]
    assert over == 1
    assert minibatches == [[0, 1, 2, 3]]


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=6),
    st.integers(1, 60),
    st.integers(1, 12),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_rollout_is_in_one_micro_batch_within_its_mini_batch(
    sizes: list[tuple[int, int]], tokens: int, vision: int, minibatches: int
) -> None:
    rows = [one for i, (n, size) in enumerate(sizes) for one in group(f"g{i}.", [0] * n, size=size)]
    budget = Budget(tokens, vision)
    ordered, parts, plan, over = split(rows, weigh, minibatches, budget)
    assert sorted(i for part in parts for i in part) == list(range(len(rows)))
    assert sorted(one.trajectory.id for one in ordered) == sorted(one.trajectory.id for one in rows)
    assert [m for mine in plan for m in mine] == list(range(len(parts)))
    for mine in plan:  # whole groups
        inside = {ordered[i].trajectory.group for m in mine for i in parts[m]}
        assert all(
            one.trajectory.group not in inside
            for other in plan
            if other is not mine
            for m in other
            for one in (ordered[i] for i in parts[m])
        )
    weights = [weigh([ordered[i].trajectory for i in part]) for part in parts]
    assert over == sum(not budget.holds(w) for w in weights)
    assert all(budget.holds(w) or len(part) == 1 for w, part in zip(weights, parts, strict=True))


def test_mini_batches_hold_whole_groups_and_every_rollout_once() -> None:
    rows = [one for name in "abcd" for one in group(name, [0, 1])]
    ordered, parts, minibatches, _ = split(rows, weigh, 2, Budget(10))
    assert minibatches == [[0, 1], [2, 3]]
    assert [[ordered[i].trajectory.id for m in mine for i in parts[m]] for mine in minibatches] == [
        ["a0", "a1", "b0", "b1"],
        ["c0", "c1", "d0", "d1"],
    ]


def test_rollouts_of_a_group_are_brought_together() -> None:
    a, b = group("a", [0, 1]), group("b", [0, 1])
    ordered, *_ = split([a[0], b[0], a[1], b[1]], weigh, 1, Budget(1 << 30))
    assert [one.trajectory.id for one in ordered] == ["a0", "a1", "b0", "b1"]


@pytest.mark.parametrize("aggregate", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("budget", [1, 9, 17])
def test_gradients_do_not_depend_on_the_micro_batches(aggregate: str, budget: int) -> None:
    rows = [*group("a", [0, 1, 1]), *group("b", [0, None], size=1), *group("c", [0.5, 0.1, 0.2], size=5)]
    algo = {
        "aggregate": aggregate,
        "advantage": {"kind": "gae"},
        "terms": [{"kind": "ppo_clip"}, {"kind": "value"}, {"kind": "entropy", "coef": 0.01}],
    }
    (whole, told), (cut, said) = (run(rows, algo=algo, token_budget=b) for b in (1 << 30, budget))
    assert len(whole.gradients) == len(cut.gradients) == 1
    for one, other in zip(whole.gradients[0], cut.gradients[0], strict=True):
        assert torch.allclose(one, other, atol=1e-7)
    for name in ("loss/ppo_clip", "loss/value", "loss/entropy"):
        assert found(told, name) == pytest.approx(found(said, name), abs=1e-6)
    # The abstention is not regressed on.
    assert next(m for m in told.metrics if m.name == "value_error").count == 7


# -- several optimiser steps ---------------------------------------------------------------------------------------


def test_a_mini_batch_holds_what_stands_beside_its_prompts() -> None:
    """Rows of a sample in groups of their own come after all prompts: they must not be a mini-batch of nothing."""
    beside = [group(f"{name}#beside", [None], sample=name, component="baseline") for name in "ab"]
    rows = [*group("a", [0, 1]), *group("b", [0, 1]), *(one for many in beside for one in many)]
    ordered, parts, minibatches, _ = split(rows, lambda many: (len(many), 0), 2, Budget(100))
    held = [sorted(ordered[i].trajectory.id for m in mine for i in parts[m]) for mine in minibatches]
    assert held == [["a#beside0", "a0", "a1"], ["b#beside0", "b0", "b1"]]


def test_later_mini_batches_are_off_policy() -> None:
    rows = [one for name in "abcd" for one in group(name, [0, 1])]
    learner, report = run(rows, minibatches_per_step=4)
    assert len(learner.gradients) == 4
    (ratio,) = [m for m in report.metrics if m.name == "ratio"]
    assert ratio.count == 4 * 2 * 3
    assert ratio.max > 1.01
    assert ratio.min < 0.99
    # Engine and learner are compared while the weights are still those that sampled: 6 decisions, no difference.
    (gap,) = [m for m in report.metrics if m.name == "sampling/sampling_logp_difference"]
    assert (gap.count, gap.max) == (6, pytest.approx(0.0, abs=1e-6))
    _, once = run(rows, minibatches_per_step=1)
    (ratio,) = [m for m in once.metrics if m.name == "ratio"]
    assert (ratio.min, ratio.max) == (pytest.approx(1.0, abs=1e-5), pytest.approx(1.0, abs=1e-5))


def test_the_first_mini_batch_counts_its_own_decisions_only() -> None:
    """The gradient of a mini-batch is that of a step with nothing else in it."""
    rows = [*group("a", [0, 1]), *group("b", [0, 1], size=5)]
    together, _ = run(rows, minibatches_per_step=2)
    alone, _ = run(rows[:2])
    assert torch.allclose(together.gradients[0][0], alone.gradients[0][0], atol=1e-7)


def test_an_exact_engine_saves_the_pass_over_the_old_policy() -> None:
    rows = group("a", [0, 1])
    exact, _ = run(rows, exact=True)
    loose, _ = run(rows, exact=False)
    assert isinstance(exact.family, TableFamily)
    assert isinstance(loose.family, TableFamily)
    assert exact.family.evaluations == 1
    assert loose.family.evaluations == 2
    assert torch.allclose(exact.gradients[0][0], loose.gradients[0][0], atol=1e-6)


def test_an_inexact_engine_gets_ratios_against_the_learners_own_log_probs() -> None:
    rows = [scored(trajectory([1, 2, 3], id=f"{i}", logp=[-9.0] * 3), i) for i in range(2)]
    _, report = run(rows, exact=False)
    assert found(report, "ratio") == pytest.approx(1.0, abs=1e-5)
    assert found(report, "sampling/sampling_logp_difference") > 1


# -- what is trained ------------------------------------------------------------------------------------------------


def test_a_step_makes_the_rewarded_answer_likelier() -> None:
    family, plan = TableFamily(), recipe()
    good, bad = trajectory([3], id="good", family=family), trajectory([4], id="bad", family=family)
    learner = Learner(family, plan, exact=True)
    report = learner.step(lambda: [scored(good, 1.0), scored(bad, 0.0)], plan, FIRST)
    after = family.evaluate(family.pack([good, bad])).logp.detach()
    assert after[0] > good.decisions.logp[0]
    assert after[1] < bad.decisions.logp[0]
    assert report.advantages == pytest.approx([2**-0.5, -(2**-0.5)], abs=1e-4)
    assert [one.reason for one in report.scored] == ["", ""]


def test_truncated_rollouts_may_leave_the_loss_and_stay_in_the_baseline() -> None:
    cut = {"ending": "overlong_turn", "terminated": False, "truncated": True}
    rows = [
        *group("a", [1, 0]),
        scored(trajectory([4, 4], id="cut", group="a", family=TableFamily(), **cut), 0.0),
    ]
    kept, report = run(rows)
    assert [one.in_loss for one in report.scored] == [True, True, True]
    dropped, report = run(rows, algo={"adjust": {"overlong": {"kind": "mask_truncated"}}})
    assert [one.in_loss for one in report.scored] == [True, True, False]
    assert [one.in_baseline for one in report.scored] == [True, True, True]
    assert [one.reason for one in report.scored] == ["", "", "truncated"]
    assert report.advantages == pytest.approx([1.154699, -0.57735, -0.57735], abs=1e-4)
    # The row that is only reached by the dropped rollout (after token 4) gets no gradient.
    assert kept.gradients[0][0][4].abs().sum() > 0
    assert dropped.gradients[0][0][4].abs().sum() == 0


def test_nothing_to_learn_from_changes_nothing() -> None:
    rows = [*group("a", [1, 1, 1]), *group("b", [None, None])]
    learner, report = run(rows)
    assert learner.gradients[0][0].abs().sum() == 0
    assert [one.reason for one in report.scored] == ["", "", "", "abstained", "abstained"]
    assert found(report, "loss/ppo_clip") == 0


def test_a_step_of_which_no_term_counts_anything_moves_nothing() -> None:
    """Neither momentum nor decay; with something to train on, the same step moves the weights."""
    family, plan = TableFamily(), recipe()
    learner = Learner(family, plan, exact=True)
    learner.step(lambda: group("a", [1, 0]), plan, FIRST)
    for totals, empty in (([None, None], 1), ([1, 0], 0)):
        before = family.table.weight.detach().clone()
        report = learner.step(lambda said=totals: group("a", said), plan, FIRST)  # type: ignore[misc]
        assert found(report, "minibatches_empty") == empty
        assert torch.equal(family.table.weight, before) == bool(empty)


def test_stages_change_the_algorithm_and_what_is_frozen() -> None:
    plan = Recipe.model_validate(
        {
            **recipe(
                algo={"advantage": {"kind": "gae"}, "terms": [{"kind": "ppo_clip"}, {"kind": "value"}]}
            ).dump(),
            "stages": [
                {"until": 0.5, "overrides": {"algo.terms": [{"kind": "value"}], "train.freeze": ["table"]}}
            ],
        }
    )
    family = TableFamily()
    learner = Learner(family, plan, exact=True)
    rows = group("a", [1, 0])
    before = family.table.weight.detach().clone()
    for step, moves in ((5, False), (6, True)):
        progress = Progress(step=step, total_steps=10)
        report = learner.step(lambda: rows, plan.at(progress), progress)
        assert (not torch.equal(family.table.weight, before)) == moves
        assert any(m.name == "loss/ppo_clip" for m in report.metrics) == moves


def test_an_objective_that_the_family_cannot_serve_is_refused() -> None:
    family = TableFamily()
    family.provides = frozenset({"entropy"})
    with pytest.raises(RecipeError, match="value"):
        Learner(family, recipe(algo={"advantage": {"kind": "gae"}}), exact=True)


def test_the_state_resumes_bit_for_bit() -> None:
    plan, rows = recipe(), group("a", [1, 0])
    families = [TableFamily(), TableFamily()]
    straight = Learner(families[0], plan, exact=True)
    first = Learner(families[1], plan, exact=True)
    for learner in (straight, first):
        learner.step(lambda: rows, plan, FIRST)
    second = Learner(families[1], plan, exact=True)
    second.restore(first.state())
    for learner in (straight, second):
        learner.step(lambda: rows, plan, Progress(step=2, total_steps=10))
    assert torch.equal(families[0].table.weight, families[1].table.weight)


def test_what_a_stage_remembers_outlives_a_resume_and_a_part_of_another_kind() -> None:
    """Two collectors of one name, one after the other: a resume begins with the last stage's, which is fresh."""
    last = recipe(algo={"collect": {"pick": {"kind": "replay"}}})
    early = {"algo.collect.pick": {"kind": "pass_rate"}}
    plan = Recipe.model_validate({**last.dump(), "stages": [{"until": 0.2, "overrides": early}]})
    rows = group("a", [1, 0])

    def step(learner: Learner, number: int) -> None:
        progress = Progress(step=number, total_steps=10)
        learner.follow(plan.at(progress))
        learner.admit([one.sample for one in rows[:1]], progress)
        learner.step(lambda: rows, plan.at(progress), progress)

    straight, first, second = (Learner(TableFamily(), plan, exact=True) for _ in range(3))
    for number in (1, 2):
        step(straight, number)
    step(first, 1)
    second.restore(first.state())
    step(second, 2)
    kept: Any = straight.state()["parts"]
    assert kept == second.state()["parts"]
    assert list(kept["collect.pick"]["pass_rate"]["rates"].values()) == [0.5]


# -- where rewards are placed ---------------------------------------------------------------------------------------


def placed(row: Trajectory, *parts: Component, normalized: bool = False) -> tuple[float, list[float]]:
    """(total, reward per decision) of a verdict with these components."""
    counted = [p.weight * (p.value or 0.0) for p in parts if not p.gated]
    total = sum(counted) / (sum(p.weight for p in parts) if normalized else 1.0)
    batch, _ = batch_of([row], [0.0])
    said = Verdict(id=row.id, reward=total, components=parts, normalized=normalized)
    out = rewards(batch, [said])
    return float(out.total[0]), out.placed.tolist()


def part(value: float, *events: tuple[int, float], weight: float = 1.0, **fields: Any) -> Component:
    named = tuple(RewardEvent(decision=d, name="e", value=v) for d, v in events)
    return Component(name=f"{value}{weight}", value=value, weight=weight, events=named, **fields)


def test_a_reward_without_events_sits_on_the_last_sampled_decision() -> None:
    row = trajectory([1, 2, 3], forced=[False, False, True])
    assert placed(row, part(0.75)) == (0.75, [0.0, 0.75, 0.0])


def test_events_sit_on_their_decisions_and_add_up_to_the_total() -> None:
    row = trajectory([1, 2, 3])
    total, where = placed(row, part(0.75, (0, 0.5), (1, 0.25), weight=2.0), part(1.0, weight=0.5))
    assert total == 2.0
    assert where == [1.0, 0.5, 0.5]


def test_a_gated_component_places_nothing() -> None:
    total, where = placed(trajectory([1, 2]), part(1.0, (0, 1.0), gated=True), part(0.5))
    assert (total, where) == (0.5, [0.0, 0.5])


def test_a_normalised_reward_is_placed_normalised() -> None:
    total, where = placed(trajectory([1, 2]), part(1.0, (0, 1.0), weight=3.0), part(1.0), normalized=True)
    assert total == 1.0
    assert where == pytest.approx([0.75, 0.25])


def test_a_fragment_takes_the_events_of_its_own_decisions() -> None:
    """Events index the episode: decisions 0 and 1 are the first row's, 2 and 3 the second's."""
    events = part(1.0, (1, 0.25), (2, 0.25))
    first = trajectory([1, 2], id="a", episode="e", terminated=False)
    last = trajectory([3, 4], id="b", episode="e", step_offset=2)
    assert placed(first, events)[1] == [0.0, 0.25]
    assert placed(last, events)[1] == [0.25, 0.5]


def test_who_abstains_has_no_reward_and_an_empty_rollout_has_one() -> None:
    _, out = batch_of([trajectory([1], id="a"), trajectory([], id="b")], [None, 0.5])
    assert out.total.isnan().tolist() == [True, False]
    assert out.placed.tolist() == [0.0]


def test_a_report_has_the_credit_of_each_decision_where_they_differ() -> None:
    family, plan = TableFamily(), recipe()
    rows = [
        scored(trajectory(ids, id=str(n), group="a", family=family), float(n))
        for n, ids in enumerate(([3, 4], [4, 4, 3]))
    ]
    report = Learner(family, plan, exact=True).step(lambda: rows, plan, FIRST)
    assert report.credit == report.advantages
    batch = family.pack([one.trajectory for one in rows])
    found = per_decision(batch, torch.tensor([1.0, 1.0, 2.0, 2.0, 5.0]))
    assert found[0] is None
    assert found[1] is not None
    assert found[1].tolist() == [2.0, 2.0, 5.0]
