"""What single estimators do beside the golden numbers and the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from triune.algo.advantages.returns import rewards_to_go
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit
from triune.core.errors import RecipeError, TriuneError
from triune.core.schedule import Progress
from triune.core.trajectory import Trajectory
from triune.core.verdict import Component, RewardEvent, Verdict
from triune.testing.table import TableFamily, batch_of, recipe, scored, trajectory, verdict
from triune.train.batching import rewards
from triune.train.learner import Learner

quick = settings(max_examples=20, deadline=None)
REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]), min_size=2, max_size=6)
BY_GROUP = ["group", "rloo", "opo", "gpg", "maxrl", "pass_at_k", "gdpo", "win_rate", "rank"]


def group(count: int, size: int = 1, **fields: Any) -> list[Trajectory]:
    return [trajectory([1] * size, id=f"{i}", rank=i, **fields) for i in range(count)]


def credit(kind: str, rows: Sequence[Trajectory], totals: Sequence[float | None], **options: Any) -> Credit:
    found: Credit = ADVANTAGES[kind](**options)(*batch_of(rows, totals), {})
    return found


def advantages(kind: str, totals: Sequence[float | None], **options: Any) -> list[float]:
    return credit(kind, group(len(totals)), totals, **options).advantage.tolist()


@quick
@given(REWARDS, st.floats(-3, 3), st.sampled_from(sorted({*BY_GROUP, "batch_mean"} - {"gpg", "maxrl"})))
def test_a_constant_added_to_all_rewards_changes_nothing(
    totals: list[float], shift: float, kind: str
) -> None:
    moved = advantages(kind, [r + shift for r in totals])
    if kind in ("win_rate", "rank") and len({r + shift for r in totals}) < len(set(totals)):
        return  # what the sum cannot tell apart
    assert moved == pytest.approx(advantages(kind, totals), abs=1e-3)


@quick
@given(REWARDS, st.floats(0.5, 20))
def test_a_factor_on_all_rewards(totals: list[float], factor: float) -> None:
    scaled = [r * factor for r in totals]
    for kind in ("group", "maxrl", "pass_at_k", "gdpo", "win_rate", "rank"):
        assert advantages(kind, scaled) == pytest.approx(advantages(kind, totals), abs=1e-2), kind
    for kind, options in (
        ("group", {"scale": "none"}),
        ("rloo", {}),
        ("opo", {}),
        ("raw", {}),
        ("batch_mean", {}),
    ):
        expected = [factor * a for a in advantages(kind, totals, **options)]
        assert advantages(kind, scaled, **options) == pytest.approx(expected, abs=1e-4), kind


@quick
@given(REWARDS)
def test_leave_one_out_is_the_centred_advantage_scaled(totals: list[float]) -> None:
    n = len(totals)
    expected = [n / (n - 1) * a for a in advantages("group", totals, scale="none")]
    assert advantages("rloo", totals) == pytest.approx(expected, abs=1e-6)
    if len(set(totals)) > 1:
        assert advantages("rloo", totals)[0] == pytest.approx(totals[0] - sum(totals[1:]) / (n - 1), abs=1e-6)


@pytest.mark.parametrize(
    "kind", ["group", "rloo", "opo", "pass_at_k", "gdpo", "win_rate", "rank", "batch_mean"]
)
def test_statistics_are_float64(kind: str) -> None:
    """In float32 there are no numbers between 1e8 and 1e8 + 8."""
    small = [0.0, 1.0, 3.0, 2.0]
    assert advantages(kind, [1e8 + r for r in small]) == pytest.approx(advantages(kind, small), abs=1e-4)


def test_rewards_in_time_are_float64() -> None:
    """.1 + .2 and .3 are the same reward, however it was placed; float32 would make a signal of the difference."""
    rows = group(2, 3)
    batch = Batch.of(rows, None)
    event = RewardEvent(decision=0, name="check", value=0.1)
    said = rewards(batch, [verdict("0", 0.3, (event,)), verdict("1", 0.3)])
    assert rewards_to_go(batch, said.placed, 1.0)[[0, 3]].tolist() == pytest.approx([0.3, 0.3], abs=1e-15)
    found = ADVANTAGES["reinforce_pp_baseline"]()(batch, said, {})
    assert found.advantage.tolist() == [0.0] * 6


# -- groups of one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*BY_GROUP, "reinforce_pp_baseline"])
def test_a_group_of_one_is_no_signal_by_default(kind: str) -> None:
    found = credit(kind, group(1), [0.7])
    assert found.advantage.tolist() == [0.0]
    assert found.degenerate.tolist() == [True]
    assert found.in_loss.tolist() == [True]


@pytest.mark.parametrize(("kind", "expected"), [("group", 0.7), ("rloo", 0.7), ("opo", 0.7), ("gpg", 0.7)])
def test_a_group_of_one_may_keep_its_reward(kind: str, expected: float) -> None:
    found = credit(kind, group(1), [0.7], singleton="raw")
    assert found.advantage.tolist() == pytest.approx([expected], abs=1e-5)
    assert found.degenerate.tolist() == [False]
    # One that is left alone because nobody could judge the others is a group of one too.
    left = credit(kind, group(2), [0.7, None], singleton="raw")
    assert left.advantage.tolist() == pytest.approx([expected, 0.0], abs=1e-5)


@pytest.mark.parametrize("kind", ["maxrl", "pass_at_k", "gdpo", "win_rate", "rank"])
def test_raw_is_refused_where_it_means_nothing(kind: str) -> None:
    with pytest.raises(ValidationError, match="singleton: raw is not possible here"):
        ADVANTAGES[kind](singleton="raw")


@pytest.mark.parametrize("kind", [*BY_GROUP, "reinforce_pp_baseline"])
def test_a_group_of_one_may_be_refused(kind: str) -> None:
    rows = [*group(2), trajectory([1], id="alone", group="other")]
    with pytest.raises(
        RecipeError, match=r"group 'other' has a single rollout, 'alone'.*rollouts_per_prompt"
    ):
        credit(kind, rows, [1.0, 0.0, 1.0], singleton="error")
    # It was not sampled alone, and a demonstration beside it is no second rollout.
    assert credit(kind, rows[:2], [1.0, None], singleton="error").advantage.tolist() == [0.0, 0.0]
    demo = trajectory([1], id="demo", group="other", forced=True, component="imitation")
    with pytest.raises(RecipeError, match="single rollout"):
        credit(kind, [*rows, demo], [1.0, 0.0, 1.0, 1.0], singleton="error")


def test_a_reward_that_is_not_finite_is_an_error_that_names_the_rollout() -> None:
    with pytest.raises(TriuneError, match=r"rollout '1' has the reward inf"):
        credit("group", group(2), [0.0, float("inf")])
    with pytest.raises(TriuneError, match=r"advantage of rollout '0' is not finite"):
        credit("group", group(2), [0.0, 1e300], scale="none")
    assert credit("group", group(2), [0.0, 1e300]).advantage.tolist() == pytest.approx(
        [-0.7071068, 0.7071068]
    )


# -- single estimators ---------------------------------------------------------------------------------------------


def test_pass_at_k_credits_one_best_only() -> None:
    assert advantages("pass_at_k", [0.2, 1.0, 0.6, 0.0], scale="none") == pytest.approx([0, 0.4, 0, 0])
    tie = credit("pass_at_k", group(3), [1.0, 1.0, 0.0])
    assert tie.advantage.tolist() == [0.0, 0.0, 0.0]


def test_opo_weighs_by_the_length_of_whole_episodes() -> None:
    """An episode of two rows, 2 + 4 tokens with reward 1, against one of 2 tokens with reward 0: the baseline is 6/8."""
    rows = [
        trajectory([1, 2], id="a", episode="long", terminated=False),
        trajectory([1, 2, 3, 4], id="b", episode="long", step_offset=2),
        trajectory([1, 2], id="c"),
    ]
    found = credit("opo", rows, [1.0, 1.0, 0.0])
    assert found.advantage.tolist() == pytest.approx([0.25] * 6 + [-0.75] * 2)


def test_maxrl_weighs_by_one_over_the_success_rate() -> None:
    assert advantages("maxrl", [1.0, 0.0, 0.0, 0.0]) == pytest.approx([3, -1, -1, -1])
    assert advantages("maxrl", [-1.0, 0.0]) == [0.0, 0.0]


def test_win_rates_know_no_distances() -> None:
    assert advantages("win_rate", [0.0, 1.0, 100.0]) == pytest.approx([-0.5, 0.0, 0.5])
    assert advantages("win_rate", [0.0, 1.0, 1.0]) == pytest.approx([-0.5, 0.25, 0.25])
    soft = advantages("win_rate", [0.0, 1.0], temperature=2.0)
    assert soft == pytest.approx([0.5 - 1 / (1 + 2.718281828**-0.5), 1 / (1 + 2.718281828**-0.5) - 0.5])


def test_ranks_are_normalised_and_ties_share_one() -> None:
    assert advantages("rank", [0.0, 7.0, 0.5], eps=0.0) == pytest.approx([-1.0, 1.0, 0.0])
    shared = advantages("rank", [5.0, 5.0, 1.0], eps=0.0)
    assert shared == pytest.approx([0.57735, 0.57735, -1.1547], abs=1e-4)


def test_a_check_with_a_small_spread_is_heard_after_normalising() -> None:
    """Format (0 or 1) hides accuracy (0 or .01) when rewards are added; normalised, both count alike."""

    def said(index: int, values: tuple[float, float]) -> Verdict:
        parts = tuple(Component(name=n, value=v, weight=1.0) for n, v in zip("ab", values, strict=True))
        return Verdict(id=f"{index}", reward=sum(values), components=parts)

    rows = group(4)
    batch = Batch.of(rows, None)
    table = [(1.0, 0.0), (0.0, 0.01), (1.0, 0.01), (0.0, 0.0)]
    judged = rewards(batch, [said(i, values) for i, values in enumerate(table)])
    added = ADVANTAGES["group"]()(batch, judged, {}).advantage
    apart = ADVANTAGES["gdpo"](eps=1e-9)(batch, judged, {}).advantage
    assert float(added[0] - added[1]) > 1.6
    assert float(apart[0] - apart[1]) == pytest.approx(0.0, abs=1e-4)
    assert float(apart[2]) == pytest.approx(-float(apart[3]))


def test_a_weight_of_a_check_is_what_it_says_after_normalising() -> None:
    """A weight of -2 turns a check round and counts twice; one of 0 counts nothing, even where it has no value."""

    def said(index: int, value: float) -> Verdict:
        parts = (
            Component(name="plain", value=value, weight=-2.0),
            Component(name="off", value=None, weight=0.0, status="error"),
        )
        return Verdict(id=f"{index}", reward=-2 * value, components=parts)

    batch = Batch.of(group(3), None)
    judged = rewards(batch, [said(i, v) for i, v in enumerate([0.0, 0.5, 1.0])])
    found = ADVANTAGES["gdpo"](batch=False, eps=0.0)(batch, judged, {})
    assert found.advantage.tolist() == pytest.approx([2.0, 0.0, -2.0])


def test_raw_rewards_with_a_sign() -> None:
    assert advantages("raw", [0.2, 0.9, None]) == pytest.approx([0.2, 0.9, 0.0])
    assert advantages("raw", [0.2, 0.9, 0.5], signed="reward") == [-1.0, 1.0, -1.0]
    assert advantages("raw", [0.2, 0.9], signed="reward", baseline=-0.5) == [-0.5, 1.5]
    rows = group(3)
    batch = Batch.of(rows, None)
    said = [
        verdict(f"{i}", r).model_copy(update={"correct": c})
        for i, (r, c) in enumerate([(0.9, False), (0.1, True), (0.5, None)])
    ]
    found = ADVANTAGES["raw"](signed="correct", baseline=0.5)(batch, rewards(batch, said), {})
    assert found.advantage.tolist() == [-1.5, 0.5, 0.0]


def test_sources_have_means_of_their_own() -> None:
    rows = [trajectory([1], id=f"{i}", group=f"{i}", source="ab"[i // 2]) for i in range(4)]
    assert credit("batch_mean", rows, [0.0, 1.0, 10.0, 12.0]).advantage.tolist() == [-0.5, 0.5, -1.0, 1.0]
    whole = credit("batch_mean", rows, [0.0, 1.0, 10.0, 12.0], by="all").advantage
    assert whole.tolist() == pytest.approx([-5.75, -4.75, 4.25, 6.25])


def test_a_moving_baseline_is_kept_per_role_and_over_steps() -> None:
    roles = [
        trajectory([1], id=f"{i}", group=f"{i}", task=task) for i, task in enumerate(["first", "second"] * 2)
    ]
    estimator = ADVANTAGES["ema"](by="task", decay=0.5)
    assert estimator(*batch_of(roles, [1.0, -1.0, 1.0, -1.0]), {}).advantage.tolist() == [
        1.0,
        -1.0,
        0.5,
        -0.5,
    ]
    assert estimator.state() == {"baselines": {"first": 0.75, "second": -0.75}}
    again = estimator(*batch_of(roles[:2], [0.75, None]), {})
    assert again.advantage.tolist() == [0.0, 0.0]
    assert estimator.state()["baselines"]["second"] == -0.75


def test_whitening_and_groups_of_equal_rewards() -> None:
    """As published, the mean over tokens moves a group of equal rewards too; `zero` keeps it and its tokens out."""
    rows = [
        trajectory([1, 1, 1], id="0"),
        trajectory([1], id="1"),
        *(trajectory([1], id=f"{i}", group="same") for i in (2, 3)),
    ]
    totals = [1.0, 0.0, 1.0, 1.0]
    published = credit("reinforce_pp_baseline", rows, totals)
    assert published.advantage[4:].abs().min() > 0.1
    assert published.degenerate.tolist() == [False, True]
    zero = credit("reinforce_pp_baseline", rows, totals, equal_groups="zero")
    assert zero.advantage[4:].tolist() == [0.0, 0.0]
    alone = credit("reinforce_pp_baseline", rows[:2], totals[:2])
    assert zero.advantage[:4].tolist() == alone.advantage.tolist()


# -- rewards to go -------------------------------------------------------------------------------------------------


def test_rewards_to_go_over_an_episode_in_rows() -> None:
    """The rows of one episode, given in the wrong order, are one chain; other episodes are others."""
    rows = [
        trajectory([1, 2], id="late", episode="e", step_offset=2),
        trajectory([1], id="other", episode="o"),
        trajectory([1, 2], id="early", episode="e", terminated=False),
    ]
    batch = Batch.of(rows, None)
    placed = torch.tensor([0.0, 1.0, 5.0, 0.0, 2.0])
    assert rewards_to_go(batch, placed, 0.5).tolist() == [0.5, 1.0, 5.0, 1.0 / 8 + 1.0, 2.25]
    assert rewards_to_go(batch, placed, 1.0).tolist() == [1.0, 1.0, 5.0, 3.0, 3.0]


def test_no_time_passes_in_what_was_placed() -> None:
    rows = [trajectory([1, 2, 3, 4], forced=[True, False, True, False])]
    placed = torch.tensor([9.0, 0.0, 1.0, 1.0])  # what comes before any choice is nobody's
    assert rewards_to_go(Batch.of(rows, None), placed, 0.5).tolist() == [0.0, 1.5, 1.5, 1.0]


def test_a_branch_is_a_chain_of_its_own() -> None:
    rows = [
        trajectory([1, 2], id="trunk", episode="e"),
        trajectory([3], id="branch", episode="e", parent="trunk", fork=1),
    ]
    assert rewards_to_go(Batch.of(rows, None), torch.tensor([0.0, 1.0, 4.0]), 1.0).tolist() == [1.0, 1.0, 4.0]


@quick
@given(st.data())
def test_rewards_to_go_equal_the_recursion(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    gamma = data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    rows = [
        trajectory(
            [1] * n,
            id=f"{i}",
            forced=data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) if n else False,
        )
        for i, n in enumerate(sizes)
    ]
    batch = Batch.of(rows, None)
    placed = torch.tensor(
        data.draw(
            st.lists(st.floats(-1, 1, width=16), min_size=batch.num_decisions, max_size=batch.num_decisions)
        )
    )
    found = rewards_to_go(batch, placed, gamma)
    for row in range(len(rows)):
        later, waiting = 0.0, 0.0
        for n in reversed((batch.trajectory == row).nonzero()[:, 0].tolist()):
            waiting += float(placed[n])
            if bool(batch.sampled[n]):
                later, waiting = waiting + gamma * later, 0.0
                assert float(found[n]) == pytest.approx(later, abs=1e-6)


# -- greedy answers ------------------------------------------------------------------------------------------------


def greedy(sample: str, **fields: Any) -> Trajectory:
    return trajectory([2, 2], id=f"{sample}#greedy", group=sample, component="baseline", **fields)


def test_remax_refuses_a_group_without_a_greedy_answer() -> None:
    rows = [*group(2), greedy("other")]
    with pytest.raises(RecipeError, match=r"group 'g' has no greedy answer.*algo\.collect"):
        credit("remax", rows, [1.0, 0.0, 0.5])


def test_remax_without_a_collector_of_greedy_answers_is_an_error_at_load() -> None:
    with pytest.raises(RecipeError, match=r"greedy: \{kind: greedy\} into algo\.collect"):
        Learner(TableFamily(), recipe(algo={"advantage": {"kind": "remax"}}), exact=True)


def test_a_group_whose_greedy_answer_nobody_could_judge_leaves_the_loss() -> None:
    demo = trajectory([3], id="demo", forced=True, component="imitation")
    rows = [*group(2), demo, greedy("g"), trajectory([1], id="b", group="b"), greedy("b")]
    found = credit("remax", rows, [1.0, 0.0, None, None, 1.0, 0.25])
    assert found.reasons == ["no_baseline", "no_baseline", "placed", "baseline", "", "baseline"]
    assert found.in_loss.tolist() == [False, False, True, False, True, False]
    assert found.in_baseline.tolist() == [False, False, False, False, True, False]
    assert found.advantage.tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, 0.75, 0.0, 0.0]


def test_groups_without_a_signal_are_counted_per_source() -> None:
    family = TableFamily()
    rows = [
        scored(trajectory([1 + i % 2], id=f"{name}{i}", group=name, source=source, family=family), reward)
        for name, source, totals in (
            ("a", "one", [1.0, 0.0]), ("b", "one", [1.0, 1.0]), ("c", "two", [0.5]), ("d", "lost", [None, None])
        )
        for i, reward in enumerate(totals)
    ]  # fmt: skip
    plan = recipe()
    report = Learner(family, plan, exact=True).step(lambda: rows, plan, Progress(step=1, total_steps=10))
    found = {m.label("source"): m.mean for m in report.metrics if m.name == "degenerate"}
    assert found == {"one": 0.5, "two": 1.0}
