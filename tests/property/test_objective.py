"""What holds for advantages, weights and losses whatever the rollouts are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from triune.algo.advantages.gae import GeneralisedAdvantage
from triune.algo.advantages.group import GroupRelative
from triune.algo.objective import Objective
from triune.algo.options import Aggregate
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.schedule import Progress
from triune.core.trajectory import Trajectory
from triune.testing.table import TableFamily, batch_of, recipe, scored, share, trajectory
from triune.train.learner import Learner

torch.set_num_threads(1)
REWARD = st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]))
quick = settings(max_examples=40, deadline=None)
MODES = st.sampled_from(["token-mean", "seq-mean-token-mean"])


@dataclass
class Rollouts:
    rows: list[Trajectory]
    totals: list[float | None]


@st.composite
def rollouts(draw: st.DrawFn, reward: st.SearchStrategy[float | None] = REWARD) -> Rollouts:
    """One to three groups of up to five rollouts of up to four decisions, some of them placed."""
    made = Rollouts([], [])
    for group in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(1, 5))):
            size = draw(st.integers(0, 4))
            made.rows.append(
                trajectory(
                    draw(st.lists(st.integers(0, 4), min_size=size, max_size=size)),
                    id=f"{len(made.rows)}",
                    group=f"{group}",
                    source=f"source {group % 2}",
                    forced=draw(st.lists(st.booleans(), min_size=size, max_size=size)),
                    logp=draw(st.lists(st.floats(-3, -0.125, width=32), min_size=size, max_size=size)),
                )
            )
            made.totals.append(draw(reward))
    return made


def credit(
    rows: Sequence[Trajectory], totals: Sequence[float | None], **options: Any
) -> tuple[Batch, Credit]:
    batch, rewards = batch_of(rows, totals)
    return batch, GroupRelative(**options)(batch, rewards, {})


def per_row(batch: Batch, values: Tensor) -> dict[str, list[float]]:
    """Values of each trajectory's decisions, by its id."""
    return {t.id: values[batch.trajectory == i].tolist() for i, t in enumerate(batch.trajectories)}


def approx(found: dict[str, list[float]], expected: dict[str, list[float]]) -> bool:
    flat = [(a, b) for name in expected for a, b in zip(found[name], expected[name], strict=True)]
    return all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-5) for a, b in flat)


@quick
@given(rollouts(), st.floats(-3, 3), st.sampled_from(["std", "none"]))
def test_a_constant_added_to_all_rewards_changes_nothing(made: Rollouts, shift: float, scale: str) -> None:
    before = per_row(*_advantages(made.rows, made.totals, scale))
    moved = [None if r is None else r + shift for r in made.totals]
    assert approx(per_row(*_advantages(made.rows, moved, scale)), before)


@quick
@given(rollouts(), st.floats(0.5, 20))
def test_the_scale_of_rewards_matters_only_without_the_std(made: Rollouts, factor: float) -> None:
    scaled = [None if r is None else r * factor for r in made.totals]
    assert approx(
        per_row(*_advantages(made.rows, scaled, "std")), per_row(*_advantages(made.rows, made.totals, "std"))
    )
    once = per_row(*_advantages(made.rows, made.totals, "none"))
    times = {name: [a * factor for a in values] for name, values in once.items()}
    assert approx(per_row(*_advantages(made.rows, scaled, "none")), times)


def _advantages(
    rows: Sequence[Trajectory], totals: Sequence[float | None], scale: str
) -> tuple[Batch, Tensor]:
    batch, found = credit(rows, totals, scale=scale)
    return batch, found.advantage


@quick
@given(st.floats(-1e6, 1e6), st.integers(2, 9), st.sampled_from(["std", "none"]))
def test_equal_rewards_give_exactly_nothing(reward: float, count: int, scale: str) -> None:
    rows = [trajectory([1, 2], id=f"{i}") for i in range(count)]
    _, found = credit(rows, [reward] * count, scale=scale)
    assert found.advantage.tolist() == [0.0] * 2 * count
    assert found.degenerate.tolist() == [True]


@quick
@given(rollouts(), st.integers(1, 4))
def test_abstaining_members_change_nothing_for_the_others(made: Rollouts, count: int) -> None:
    before = per_row(*_advantages(made.rows, made.totals, "std"))
    extra = [trajectory([1], id=f"extra {i}", group="0") for i in range(count)]
    batch, found = credit([*extra, *made.rows], [None] * count + made.totals)
    after = per_row(batch, found.advantage)
    assert approx(after, before)
    assert [after[one.id] for one in extra] == [[0.0]] * count
    assert not found.in_loss[:count].any()


def test_two_scores_and_two_abstentions_make_a_baseline_of_a_half() -> None:
    rows = [trajectory([1], id=f"{i}") for i in range(4)]
    batch, found = credit(rows, [1.0, 0.0, None, None], scale="none")
    assert found.advantage.tolist() == [0.5, -0.5, 0.0, 0.0]
    assert share(batch, found).weight.tolist() == [0.5, 0.5, 0.0, 0.0]


@quick
@given(rollouts(), st.randoms(use_true_random=False), st.sampled_from(["std", "none"]))
def test_the_order_of_rows_does_not_matter(made: Rollouts, random: Any, scale: str) -> None:
    before = per_row(*_advantages(made.rows, made.totals, scale))
    order = random.sample(range(len(made.rows)), len(made.rows))
    after = _advantages([made.rows[i] for i in order], [made.totals[i] for i in order], scale)
    assert approx(per_row(*after), before)


@quick
@given(rollouts(), MODES, st.data())
def test_weights_divide_by_what_the_mini_batch_counts(made: Rollouts, mode: Any, data: st.DataObject) -> None:
    """Over any choice of rows the weights are equal shares of the trained decisions (or sequences), and sum to 1."""
    batch, found = credit(made.rows, made.totals)
    rows = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(made.rows), max_size=len(made.rows))))
    weight = share(batch, found, mode, rows).weight
    live = (rows & found.in_loss)[batch.trajectory] & batch.sampled
    assert torch.equal(weight > 0, live)
    if not bool(live.any()):
        return
    assert float(weight.sum()) == pytest.approx(1.0, abs=1e-5)
    if mode == "token-mean":
        assert torch.allclose(weight[live], torch.tensor(1.0) / live.sum())
    else:
        shares = torch.zeros(len(made.rows)).index_add(0, batch.trajectory, weight)
        assert torch.allclose(shares[shares > 0], torch.tensor(1.0) / (shares > 0).sum())


@quick
@given(rollouts(), st.sampled_from(get_args(Aggregate)), st.data())
def test_every_aggregation_is_the_sum_that_its_name_says(
    made: Rollouts, mode: Any, data: st.DataObject
) -> None:
    """Worked out with lists: the loss of one number per decision, over a mini-batch of some of the rows."""
    batch, found = credit(made.rows, made.totals)
    rows = data.draw(st.lists(st.booleans(), min_size=len(made.rows), max_size=len(made.rows)))
    loss = torch.arange(1.0, batch.num_decisions + 1)
    per_group: dict[str, list[list[float]]] = {}
    for index, one in enumerate(made.rows):
        if rows[index] and bool(found.in_loss[index]):
            live = (batch.trajectory == index) & batch.sampled
            per_group.setdefault(one.group, []).append(loss[live].tolist())
    every = [row for group in per_group.values() for row in group]
    some = [row for row in every if row]
    tokens = [x for row in every for x in row]
    groups = [flat for group in per_group.values() if (flat := [x for row in group for x in row])]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / max(1, len(values))

    expected = {
        "token-mean": mean(tokens),
        "group-token-mean": mean([mean(group) for group in groups]),
        "seq-mean-token-mean": mean([mean(row) for row in some]),
        "seq-mean-token-mean-all": mean([mean(row) for row in every]),
        "seq-mean-token-sum": mean([sum(row) for row in some]),
        "sum-const": sum(tokens) / 9,
        "seq-mean-token-sum-const": mean([sum(row) / 9 for row in every]),
    }[mode]
    weight = share(batch, found, mode, torch.tensor(rows), constant=9).weight
    assert float((loss * weight).sum()) == pytest.approx(expected, rel=1e-5)


@quick
@given(rollouts(), MODES, st.sampled_from([None, 3.0]), st.data())
def test_losses_add_up_over_any_split(
    made: Rollouts, mode: Any, dual: float | None, data: st.DataObject
) -> None:
    batch, found = credit(made.rows, made.totals)
    shift = data.draw(
        st.lists(st.floats(-1, 1, width=32), min_size=batch.num_decisions, max_size=batch.num_decisions)
    )
    logp = batch.logp_behavior + torch.tensor(shift, dtype=torch.float32)
    objective = Objective.of([{"kind": "ppo_clip", "dual": dual}], aggregate=mode)
    judged = Rewards(torch.zeros(len(made.rows)).double(), torch.zeros(batch.num_decisions))
    (name, all_of_it), *_ = objective.shares(batch, found, judged).items()
    whole = objective.whole(batch, found, Evaluated(logp), {"old": Evaluated(batch.logp_behavior)}).total
    place = data.draw(st.lists(st.integers(0, 2), min_size=len(made.rows), max_size=len(made.rows)))
    total = 0.0
    for number in range(3):
        chosen = [i for i, where in enumerate(place) if where == number]
        if not chosen:
            continue
        mine = torch.isin(batch.trajectory, torch.tensor(chosen))
        small = Batch.of([made.rows[i] for i in chosen], None)
        small.advantage = found.advantage[mine]
        views, part = (
            {"old": Evaluated(small.logp_behavior)},
            Share(all_of_it.live[mine], all_of_it.weight[mine]),
        )
        progress = Progress(step=1, total_steps=1)
        total += float(objective(small, Evaluated(logp[mine]), views, {name: part}, progress).total)
    assert total == pytest.approx(float(whole), abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(rollouts(), MODES, st.integers(1, 30))
def test_gradients_do_not_depend_on_the_micro_batches(made: Rollouts, mode: Any, budget: int) -> None:
    if not any(len(one.decisions) for one in made.rows):
        return
    one, many = (gradients(made, mode, tokens) for tokens in (1 << 30, budget))
    for a, b in zip(one, many, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def gradients(made: Rollouts, mode: str, budget: int) -> list[Tensor]:
    """What the optimiser was given in one step of the learner."""
    family = TableFamily()
    algo = {"aggregate": mode, "terms": [{"kind": "ppo_clip"}, {"kind": "value"}, {"kind": "entropy", "coef": 0.01}],
            "advantage": {"kind": "gae", "gamma": 0.9}}  # fmt: skip
    plan = recipe(algo=algo, token_budget=budget, optimizer={"clip_norm": 1e9})
    learner = Learner(family, plan, exact=True)
    seen: list[Tensor] = []

    def keep(optimizer: Any, args: Any, kwargs: Any) -> None:
        seen.extend(p.grad.clone() for g in optimizer.param_groups for p in g["params"] if p.grad is not None)

    learner.optimizer.adamw.register_step_pre_hook(keep)
    rows = [scored(row, total) for row, total in zip(made.rows, made.totals, strict=True)]
    learner.step(lambda: rows, plan, Progress(step=1, total_steps=10))
    return seen


@quick
@given(rollouts(st.just(0.0)), st.floats(0, 1), st.data())
def test_full_lambda_returns_are_discounted_rewards_whatever_the_values(
    made: Rollouts, gamma: float, data: st.DataObject
) -> None:
    """Every decision a turn of its own: with lambda 1 the returns are the discounted sums of the rewards to come, in
    which placed decisions take no time and their rewards count for the choice before."""
    rows = [
        trajectory(
            one.payload.arrays["ids"][1:].tolist(),
            id=one.id,
            turn=list(range(len(one.decisions))),
            forced=one.decisions.forced.tolist(),
        )
        for one in made.rows
    ]
    batch = Batch.of(rows, None)
    size = batch.num_decisions
    placed = torch.tensor(data.draw(st.lists(st.floats(-1, 1, width=16), min_size=size, max_size=size)))
    values = torch.tensor(data.draw(st.lists(st.floats(-1, 1, width=16), min_size=size, max_size=size)))
    batch.value_trajectory, batch.value_turn = batch.trajectory, batch.turn
    rewards = Rewards(torch.zeros(len(rows), dtype=torch.float64), placed)
    estimator = GeneralisedAdvantage(gamma=gamma, lam=1.0, whiten=False)
    found = estimator(batch, rewards, {"old": Evaluated(batch.logp_behavior, value=values)})
    assert found.returns is not None
    for row in range(len(rows)):
        mine = (batch.trajectory == row).nonzero()[:, 0].tolist()
        later, waiting = 0.0, 0.0
        for n in reversed(mine):
            waiting += float(placed[n])
            if bool(batch.sampled[n]):
                later, waiting = waiting + gamma * later, 0.0
                assert float(found.returns[n]) == pytest.approx(later, abs=1e-4)
