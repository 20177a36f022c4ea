"""What every estimator promises; new ones are found by themselves. Who declares an exception is held to that too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from triune.algo.advantages import controls
from triune.algo.options import ADVANTAGES
from triune.algo.types import Credit, Evaluated
from triune.core.schedule import Progress
from triune.core.trajectory import Trajectory
from triune.testing.table import TableFamily, batch_of, recipe, scored, trajectory
from triune.train.learner import Learner

torch.set_num_threads(1)
OPTIONS = [
    pytest.param(name, {}, id=name)
    for name in ADVANTAGES
    if not any(f.is_required() for f in ADVANTAGES[name].model_fields.values())
] + [
    pytest.param("group", {"scale": "none"}, id="group-none"),
    pytest.param("group", {"scale": "batch"}, id="group-batch"),
    pytest.param("group", {"ddof": 0, "eps": 0.0}, id="group-population"),
    pytest.param("group", {"singleton": "raw"}, id="group-raw"),
    pytest.param("reinforce_pp", {"gamma": 0.9}, id="reinforce_pp-discounted"),
    pytest.param("reinforce_pp_baseline", {"equal_groups": "zero"}, id="reinforce_pp_baseline-zero"),
    pytest.param("gdpo", {"batch": False}, id="gdpo-group"),
    pytest.param("batch_mean", {"scale": "std"}, id="batch_mean-std"),
    pytest.param("win_rate", {"temperature": 0.5}, id="win_rate-sigmoid"),
    pytest.param("raw", {"signed": "reward"}, id="raw-signed"),
]
every = pytest.mark.parametrize(("name", "options"), OPTIONS)
RANDOM = {name for name in ADVANTAGES if ADVANTAGES[name].__module__ == controls.__name__}
"""Negative controls deal advantages to others."""


@dataclass
class Rows:
    """Rollouts of two tokens with their rewards, for one estimator."""

    name: str
    rows: list[Trajectory] = field(default_factory=list)
    totals: list[float | None] = field(default_factory=list)

    def add(self, id: str, reward: float | None, **fields: Any) -> Rows:
        fields = {"logp": [-0.5, -1.5], "turn": [0, 1]} | fields
        self.rows.append(trajectory([1, 2], id=id, **fields))
        self.totals.append(reward)
        return self

    def group(self, name: str, rewards: Sequence[float | None], greedy: float | None = 0.5) -> Rows:
        """A group with an answer to compare with, and with the hinted rollout that one estimator is about."""
        for rank, reward in enumerate(rewards):
            self.add(f"{name}{rank}", reward, group=name, rank=rank, sample=name)
        if self.name == "prefix_rft":
            self.add(f"{name} hinted", 0.75, group=name, rank=8, sample=name, forced=[True, False])
        return self.add(f"{name} greedy", greedy, group=name, rank=9, sample=name, component="baseline")


def made(name: str) -> Rows:
    return Rows(name).group("a", [1.0, 0.0, 0.25, 0.5]).group("b", [0.25, 0.75, 0.5])


def build(name: str, options: dict[str, Any]) -> Any:
    return ADVANTAGES[name].model_validate({"kind": name, **options})


def estimate(estimator: Any, given: Rows, order: Sequence[int] | None = None) -> Credit:
    order = range(len(given.rows)) if order is None else order
    batch, rewards = batch_of([given.rows[i] for i in order], [given.totals[i] for i in order])
    batch.value_trajectory, batch.value_turn = batch.trajectory, batch.turn
    logp = batch.logp_behavior
    extras = {name: torch.full_like(logp, 0.3) for name in ("collision", "distribution")}
    entropy = torch.tensor([float(sum(map(ord, t.id)) % 7) for t in batch.trajectories])[batch.trajectory]
    view = Evaluated(logp, entropy=entropy, value=0.1 * logp, extras=extras)
    needs = {need.split(".")[0] for need in estimator.needs} | {"old"}
    found: Credit = estimator(batch, rewards, dict.fromkeys(needs, view))
    return found


def per_row(credit: Credit, given: Rows, order: Sequence[int] | None = None) -> dict[str, list[float]]:
    order = range(len(given.rows)) if order is None else order
    values = credit.advantage.reshape(len(given.rows), 2)
    return {given.rows[i].id: values[place].tolist() for place, i in enumerate(order)}


def same(found: dict[str, list[float]], expected: dict[str, list[float]]) -> bool:
    return all(found[key] == pytest.approx(values, rel=1e-5, abs=1e-6) for key, values in expected.items())


@every
def test_who_could_not_be_judged_gets_nothing_and_changes_nothing(name: str, options: dict[str, Any]) -> None:
    before = per_row(estimate(build(name, options), made(name)), made(name))
    given = made(name).add("lost", None, group="a", rank=7).add("broken", 5.0, group="b", ending="env_error")
    credit = estimate(build(name, options), given)
    found = per_row(credit, given)
    assert same(found, before)
    assert found["lost"] == found["broken"] == [0.0, 0.0]
    assert credit.in_loss[-2:].tolist() == credit.in_baseline[-2:].tolist() == [False, False]
    assert credit.reasons[-2:] == ["abstained", "env_error"]
    assert not credit.masked or not credit.masked.any()


@every
def test_demonstrations_are_in_nobodys_baseline(name: str, options: dict[str, Any]) -> None:
    before = per_row(estimate(build(name, options), made(name)), made(name))
    for reward in (1e6, 0.5, None):
        given = made(name)
        for index in range(2):
            given.add(f"demo {index}", reward, group="a", forced=True, component="imitation")
        credit = estimate(build(name, options), given)
        found = per_row(credit, given)
        assert same(found, before)
        assert found["demo 0"] == [0.0, 0.0]
        assert credit.in_loss[-2:].tolist() == [True, True]
        assert credit.in_baseline[-2:].tolist() == [False, False]
        assert credit.reasons[-2:] == ["placed", "placed"]


@every
def test_rows_to_compare_with_are_not_trained(name: str, options: dict[str, Any]) -> None:
    given = made(name)
    credit = estimate(build(name, options), given)
    for index, row in enumerate(given.rows):
        if row.component == "baseline":
            assert not credit.in_loss[index]
            assert not credit.in_baseline[index]
            assert per_row(credit, given)[row.id] == [0.0, 0.0]


@every
def test_equal_rewards_give_exactly_nothing(name: str, options: dict[str, Any]) -> None:
    estimator = build(name, options)
    for reward in (0.7, 0.1, -1e6, 0.0):
        estimator = build(name, options)
        given = Rows(name).group("a", [reward] * 8, reward).group("b", [reward] * 3, reward)
        given.totals = [reward if r is not None else None for r in given.totals]
        credit = estimate(estimator, given)
        if getattr(estimator, "keeps_equal", ""):
            continue
        assert credit.advantage.tolist() == [0.0] * len(credit.advantage)
    if not getattr(estimator, "keeps_equal", "") or name in RANDOM:
        return
    kept = estimate(build(name, options), Rows(name).group("a", [0.7] * 3))
    assert kept.advantage.abs().max() > 0, "says that it keeps equal rewards, but does not"


@every
def test_the_order_of_rows_does_not_matter(name: str, options: dict[str, Any]) -> None:
    if name in RANDOM:
        pytest.skip("a negative control deals by the order")
    given = made(name)
    before = per_row(estimate(build(name, options), given), given)
    for order in (
        list(reversed(range(len(given.rows)))),
        [*range(1, len(given.rows), 2), *range(0, len(given.rows), 2)],
    ):
        found = per_row(estimate(build(name, options), given, order), given, order)
        assert same(found, before)


@every
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_huge_and_tiny_rewards_stay_finite(name: str, options: dict[str, Any], scale: float) -> None:
    given = made(name)
    given.totals = [None if r is None else r * scale for r in given.totals]
    credit = estimate(build(name, options), given)
    assert bool(credit.advantage.isfinite().all())


@every
def test_other_groups_take_part_only_where_it_is_said(name: str, options: dict[str, Any]) -> None:
    estimator = build(name, options)
    alone = Rows(name).group("a", [1.0, 0.0, 0.25, 0.5])
    before = per_row(estimate(build(name, options), alone), alone)
    given = Rows(name).group("a", [1.0, 0.0, 0.25, 0.5]).group("B", [8.0, 0.0, 2.0])
    found = per_row(estimate(estimator, given), given)
    wide = getattr(estimator, "batch_wide", False)
    if not wide:
        assert same(found, before)
    elif name == "ema":  # groups follow each other by name, and B comes before a
        assert not same(found, before)
    elif name not in RANDOM:
        assert not same(found, before), "says that other groups take part, but they do not"


@every
def test_an_episode_in_fragments_counts_once(name: str, options: dict[str, Any]) -> None:
    """The later row of an episode gets credit of its own and is in no statistics."""
    whole = Rows(name).group("a", [1.0, 0.0, 0.25])
    before = per_row(estimate(build(name, options), whole), whole)
    given = Rows(name).group("a", [1.0, 0.0, 0.25])
    given.rows[0] = given.rows[0].model_copy(update={"terminated": False, "episode": "long"})
    given.add("later", 1.0, group="a", rank=0, sample="a", episode="long", step_offset=2)
    credit = estimate(build(name, options), given)
    found = per_row(credit, given)
    assert credit.in_loss[-1]
    assert not credit.in_baseline[-1]
    if name in RANDOM | {"gae", "opo", "reinforce_pp", "reinforce_pp_baseline", "token_baseline"}:
        return  # lengths, tokens and values of the row take part
    assert same({key: found[key] for key in ("a1", "a2")}, {key: before[key] for key in ("a1", "a2")})
    assert found["later"] == pytest.approx(before["a0"], rel=1e-5, abs=1e-6)


@every
def test_what_it_remembers_survives_a_resume(name: str, options: dict[str, Any]) -> None:
    one, other = build(name, options), build(name, options)
    estimate(one, made(name))
    other.restore(one.state())
    given = Rows(name).group("c", [0.5, 0.0, 1.0])
    assert same(per_row(estimate(other, given), given), per_row(estimate(one, given), given))


@every
def test_an_empty_response_and_a_lone_rollout_do_no_harm(name: str, options: dict[str, Any]) -> None:
    empty = trajectory([], id="a0", group="a", sample="a")
    for rows, totals in (
        ([empty], [1.0]),
        ([empty, trajectory([1], id="a1", group="a", sample="a", rank=1)], [1.0, 0.0]),
        ([trajectory([1], id="a0", group="a", sample="a")], [None]),
    ):
        greedy = trajectory([1], id="g", group="a", sample="a", rank=9, component="baseline")
        given = Rows(name, [*rows, greedy], [*totals, 0.5])
        assert bool(estimate(build(name, options), given).advantage.isfinite().all())


@every
def test_one_step_moves_probability_to_the_rewarded_token(name: str, options: dict[str, Any]) -> None:
    if name in RANDOM:
        pytest.skip("a negative control must not learn")
    family = TableFamily()
    rows = []
    for group in range(3):
        for rank, token in enumerate((1, 2, 3, 4)):
            row = trajectory(
                [token], id=f"{group}{rank}", group=f"{group}", sample=f"{group}", rank=rank, family=family
            )
            rows.append(scored(row, float(token == 1)))
        greedy = trajectory(
            [2],
            id=f"{group} greedy",
            group=f"{group}",
            sample=f"{group}",
            rank=9,
            component="baseline",
            family=family,
        )
        rows.append(scored(greedy, 0.25))
    terms: dict[str, Any] = {"policy": {"kind": "ppo_clip"}}
    beside = {"remax": {"greedy": {"kind": "greedy"}}, "versus": {"opponent": {"kind": "mixture"}}}
    collect = beside.get(name, {})
    plan = recipe(algo={"collect": collect, "advantage": {"kind": name, **options}, "terms": terms})
    learner = Learner(family, plan, exact=True)
    before = family.table.weight[0].log_softmax(-1).detach().clone()
    learner.step(lambda: rows, plan, Progress(step=1, total_steps=10))
    after = family.table.weight[0].log_softmax(-1).detach()
    assert after[1] > before[1]
