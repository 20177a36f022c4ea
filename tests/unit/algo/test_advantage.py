from __future__ import annotations

from typing import Any

import pytest
import torch

from triune.algo.advantages.controls import ShuffledAdvantage, ShuffledGroupRelative
from triune.algo.advantages.gae import GeneralisedAdvantage
from triune.algo.advantages.group import GroupRelative
from triune.algo.types import Credit, Evaluated
from triune.core.trajectory import Trajectory
from triune.testing.table import batch_of, trajectory


def credit(rows: list[Trajectory], totals: list[float | None], **options: Any) -> Credit:
    return GroupRelative(**options)(*batch_of(rows, totals), {})


def group(count: int, **fields: Any) -> list[Trajectory]:
    return [trajectory([1], id=f"{i}", seed=i, **fields) for i in range(count)]


def test_who_could_not_be_judged_leaves_baseline_and_loss() -> None:
    found = credit(group(4), [1.0, 0.0, None, None], scale="none")
    assert found.advantage.tolist() == [0.5, -0.5, 0.0, 0.0]
    assert found.in_loss.tolist() == found.in_baseline.tolist() == [True, True, False, False]
    assert found.reasons == ["", "", "abstained", "abstained"]


@pytest.mark.parametrize("ending", ["env_error", "aborted", "inconsistent"])
def test_what_is_not_the_policys_fault_does_not_count(ending: Any) -> None:
    rows = [*group(2), trajectory([1], id="x", ending=ending)]
    found = credit(rows, [1.0, 0.0, 0.0], scale="none")
    assert found.advantage.tolist() == [0.5, -0.5, 0.0]
    assert found.reasons[2] == ending


def test_one_judged_member_is_no_baseline() -> None:
    found = credit(group(3), [1.0, None, None])
    assert found.advantage.tolist() == [0.0, 0.0, 0.0]
    assert found.degenerate.tolist() == [True]


def test_forced_decisions_get_no_advantage() -> None:
    rows = [trajectory([1, 2], id="a", forced=[False, True]), trajectory([1], id="b")]
    assert credit(rows, [1.0, 0.0], scale="none").advantage.tolist() == [0.5, 0.0, -0.5]


def test_an_empty_response_counts_in_the_baseline() -> None:
    found = credit([trajectory([], id="a"), *group(1)], [0.0, 1.0], scale="none")
    assert found.in_baseline.tolist() == [True, True]
    assert found.advantage.tolist() == [0.5]


def test_an_episode_in_fragments_counts_once() -> None:
    """Three rows of a lucky episode and one of another: the baseline is a half, not three quarters."""
    rows = [trajectory([1], id=f"{i}", episode="lucky", step_offset=i, terminated=i == 2) for i in range(3)]
    found = credit([*rows, trajectory([1], id="x", episode="other")], [1.0, 1.0, 1.0, 0.0], scale="none")
    assert found.advantage.tolist() == [0.5, 0.5, 0.5, -0.5]
    assert found.in_loss.all()
    assert found.in_baseline.tolist() == [True, False, False, True]


def test_demonstrations_are_trained_but_are_nobodys_baseline() -> None:
    rows = [*group(2), trajectory([3, 3], id="demo", forced=True, component="expert")]
    for reward in (1.0, None):
        found = credit(rows, [1.0, 0.0, reward], scale="none")
        assert found.advantage.tolist() == [0.5, -0.5, 0.0, 0.0]
        assert found.in_loss.tolist() == [True, True, True]
        assert found.in_baseline.tolist() == [True, True, False]


def test_the_control_deals_the_same_advantages_to_others() -> None:
    rows, totals = group(6), [3.0, 1.0, None, 0.0, 2.0, 5.0]
    true = GroupRelative()(*batch_of(rows, totals), {})
    dealt = ShuffledGroupRelative()(*batch_of(rows, totals), {})
    assert torch.allclose(dealt.advantage.sort().values, true.advantage.sort().values, atol=1e-6)
    assert not torch.allclose(dealt.advantage, true.advantage, atol=1e-3)
    assert dealt.reasons == true.reasons  # nobody inherits an abstention
    again = ShuffledGroupRelative()(*batch_of(rows, totals), {})
    assert torch.equal(dealt.advantage, again.advantage)


def test_the_control_keeps_groups_apart() -> None:
    rows = [trajectory([1], id=f"{i}", seed=i, group="low" if i < 3 else "high") for i in range(6)]
    dealt = ShuffledGroupRelative(scale="none")(
        *batch_of(rows, [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]), {}
    ).advantage
    assert sorted(dealt[:3].tolist()) == sorted(dealt[3:].tolist()) == [-1.0, 0.0, 1.0]


def test_the_control_of_gae_keeps_the_returns() -> None:
    rows = [trajectory([1, 2, 3, 4], turn=[0, 1, 2, 3], forced=[False, True, False, False], seed=9)]
    batch, rewards = batch_of(rows, [1.0])
    batch.value_trajectory, batch.value_turn = batch.trajectory, batch.turn
    old = {"old": Evaluated(batch.logp_behavior, value=torch.tensor([0.1, 0.0, 0.5, 0.9]))}
    true, dealt = GeneralisedAdvantage()(batch, rewards, old), ShuffledAdvantage()(batch, rewards, old)
    assert dealt.returns is not None
    assert true.returns is not None
    assert torch.equal(dealt.returns, true.returns)
    assert not torch.equal(dealt.advantage, true.advantage)
    assert torch.equal(dealt.advantage.sort().values, true.advantage.sort().values)
    assert dealt.advantage[1] == 0
