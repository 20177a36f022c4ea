from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from triune.algo.advantages.gae import GeneralisedAdvantage
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.trajectory import Trajectory
from triune.testing.table import share, trajectory


def estimate(
    rows: Sequence[Trajectory],
    placed: Sequence[float],
    values: Sequence[tuple[int, int, float]] = (),
    **options: Any,
) -> tuple[Batch, Credit]:
    """Credit for rewards placed per decision and values (row, turn, value); no values: 0 before every turn."""
    batch = Batch.of(rows, None)
    reads = values or [
        (r, t, 0.0) for r, t in sorted(set(zip(batch.trajectory.tolist(), batch.turn.tolist(), strict=True)))
    ]
    batch.value_trajectory, batch.value_turn = (torch.tensor([read[i] for read in reads]) for i in (0, 1))
    value = torch.tensor([read[2] for read in reads])
    rewards = Rewards(torch.zeros(len(rows), dtype=torch.float64), torch.tensor(placed))
    estimator = GeneralisedAdvantage(**({"whiten": False, "gamma": 1.0, "lam": 1.0} | options))
    return batch, estimator(batch, rewards, {"old": Evaluated(batch.logp_behavior, value=value)})


def near(actual: Tensor, expected: Sequence[float]) -> bool:
    return torch.allclose(actual, torch.tensor(expected), atol=1e-6)


def test_the_return_crosses_what_nobody_sampled() -> None:
    """Rewards [0, 0, 1], the middle token placed, gamma 0.5: the return of the first is 0.5, not 0.25 and not 0."""
    row = trajectory([1, 2, 3], turn=[0, 1, 2], forced=[False, True, False])
    _, credit = estimate([row], [0.0, 0.0, 1.0], gamma=0.5)
    assert near(credit.advantage, [0.5, 0.0, 1.0])


def test_a_placed_turn_lends_no_value_and_learns_none() -> None:
    row = trajectory([1, 2, 3], turn=[0, 1, 2], forced=[False, True, False])
    quiet = estimate([row], [0.0, 0.0, 1.0], [(0, 0, 0.2), (0, 1, 0.0), (0, 2, 0.6)], gamma=0.9, lam=0.5)
    loud = estimate([row], [0.0, 0.0, 1.0], [(0, 0, 0.2), (0, 1, 99.0), (0, 2, 0.6)], gamma=0.9, lam=0.5)
    assert torch.equal(quiet[1].advantage, loud[1].advantage)
    last = 1.0 - 0.6
    assert near(quiet[1].advantage, [0.9 * 0.6 - 0.2 + 0.9 * 0.5 * last, 0.0, last])
    assert share(*loud, kind="value").value_weight.tolist() == [0.5, 0.0, 0.5]


def test_a_reward_in_a_placed_turn_counts_for_the_choice_before() -> None:
    row = trajectory([1, 2, 3], turn=[0, 1, 1], forced=[False, True, True])
    _, credit = estimate([row], [0.0, 0.25, 0.5], gamma=0.5, lam=0.5)
    assert near(credit.advantage, [0.75, 0.0, 0.0])


def test_forced_tokens_inside_a_sampled_turn_change_nothing() -> None:
    plain = estimate([trajectory([1, 2], turn=[0, 1])], [0.5, 1.0], gamma=0.9)[1].advantage
    row = trajectory([1, 3, 3, 2], turn=[0, 0, 1, 1], forced=[False, True, True, False])
    mixed = estimate([row], [0.5, 0.0, 0.0, 1.0], gamma=0.9)[1].advantage
    assert near(mixed, [float(plain[0]), 0.0, 0.0, float(plain[1])])


def test_a_chunk_shares_its_turns_advantage() -> None:
    """Rewards within a turn add up; both actions of a chunk get what the turn earned."""
    row = trajectory([1, 2, 3, 4], turn=[0, 0, 1, 1])
    _, credit = estimate([row], [0.25, 0.25, 0.0, 1.0], gamma=0.5)
    assert near(credit.advantage, [1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_a_two_state_chain(gamma: float) -> None:
    """Termination cuts the bootstrap, truncation does not: reward 1 at each of two steps, values 3 and 2 on the way
    and 5 where it stopped."""
    reads = [(0, 0, 3.0), (0, 1, 2.0), (0, 2, 5.0)]
    over = trajectory([1, 2], turn=[0, 1])
    cut = trajectory([1, 2], turn=[0, 1], ending="max_turns", terminated=False, truncated=True)
    _, ended = estimate([over], [1.0, 1.0], reads, gamma=gamma, lam=0.0)
    _, goes_on = estimate([cut], [1.0, 1.0], reads, gamma=gamma, lam=0.0)
    assert near(ended.advantage, [1 + gamma * 2 - 3, 1 - 2.0])
    assert near(goes_on.advantage, [1 + gamma * 2 - 3, 1 + gamma * 5 - 2])
    assert ended.returns is not None
    assert near(ended.returns[:2], [1 + gamma * 2, 1.0])


def test_the_bootstrap_is_not_a_target() -> None:
    cut = trajectory([1, 2], turn=[0, 1], terminated=False, truncated=True)
    batch, credit = estimate(
        [cut, trajectory([1])], [0.0] * 3, [(0, 0, 1.0), (0, 1, 1.0), (0, 2, 1.0), (1, 0, 1.0)]
    )
    assert near(share(batch, credit, kind="value").value_weight, [1 / 3, 1 / 3, 0.0, 1 / 3])
    assert near(
        share(batch, credit, rows=torch.tensor([True, False]), kind="value").value_weight,
        [1 / 2, 1 / 2, 0.0, 0.0],
    )


def test_a_fragment_bootstraps_like_the_episode_that_it_is_part_of() -> None:
    whole = trajectory([1, 2], turn=[0, 1])
    _, expected = estimate([whole], [0.0, 1.0], [(0, 0, 0.3), (0, 1, 0.4)], lam=0.0)
    first = trajectory([1], id="a", episode="e", terminated=False)
    last = trajectory([2], id="b", episode="e", step_offset=1)
    _, parts = estimate([first, last], [0.0, 1.0], [(0, 0, 0.3), (0, 1, 0.4), (1, 0, 0.4)], lam=0.0)
    assert torch.equal(parts.advantage, expected.advantage)


def test_whitening_looks_at_trained_decisions_only() -> None:
    rows = [
        trajectory([1, 2], id="a", forced=[False, True]),
        trajectory([1], id="b"),
        trajectory([1], id="c", ending="env_error"),
    ]
    _, credit = estimate(rows, [3.0, 0.0, 1.0, 50.0], whiten=True)
    assert credit.in_loss.tolist() == [True, True, False]
    assert near(credit.advantage, [2**-0.5, 0.0, -(2**-0.5), 0.0])


def test_a_turn_without_a_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="'t' has a turn before which no value was read"):
        estimate([trajectory([1, 2], turn=[0, 1])], [0.0, 0.0], [(0, 0, 0.0)])


def test_a_step_counts_once_however_long_it_is() -> None:
    """VL-DAC: two steps of 3 and 7 tokens with advantages 1 and -1; every token of a step has that of its step."""
    rows = [trajectory([1] * 10, turn=[0] * 3 + [1] * 7)]
    placed = [0.0] * 2 + [1.0] + [0.0] * 6 + [-1.0]
    _, credit = estimate(rows, placed, gamma=0.0, whiten=True, whiten_over="turns")
    assert near(credit.advantage, [0.5**0.5] * 3 + [-(0.5**0.5)] * 7)
    _, credit = estimate(rows, placed, gamma=0.0, whiten=True)
    assert float(credit.advantage.mean()) == pytest.approx(0.0, abs=1e-6)  # tokens count


@pytest.mark.parametrize(("where", "scale"), [("variance", (0.5 + 0.25) ** 0.5), ("std", 0.5**0.5 + 0.25)])
def test_where_epsilon_sits(where: str, scale: float) -> None:
    rows = [trajectory([1], id="a"), trajectory([1], id="b")]
    _, credit = estimate(rows, [1.0, 0.0], whiten=True, whiten_eps=0.25, whiten_eps_in=where)
    assert near(credit.advantage, [0.5 / scale, -0.5 / scale])


@pytest.mark.parametrize("where", ["variance", "std"])
def test_equal_advantages_whiten_to_nothing(where: str) -> None:
    rows = [trajectory([1], id="a"), trajectory([1], id="b")]
    _, credit = estimate(rows, [0.7, 0.7], whiten=True, whiten_eps=0.0, whiten_eps_in=where)
    assert near(credit.advantage, [0.0, 0.0])


def test_a_single_decision_is_not_whitened() -> None:
    _, credit = estimate([trajectory([1])], [0.7], whiten=True)
    assert near(credit.advantage, [0.7])


def test_explained_variance_is_per_source_and_of_what_is_trained() -> None:
    rows = [
        trajectory([1], id="a", source="known"),
        trajectory([1], id="b", source="known"),
        trajectory([1], id="c", source="unknown"),
        trajectory([1], id="d", source="unknown"),
        trajectory([1], id="e", source="unknown", ending="env_error"),
        trajectory([1], id="f", source="flat"),
    ]
    reads = [(0, 0, 1.0), (1, 0, 0.0), (2, 0, 0.0), (3, 0, 1.0), (4, 0, 99.0), (5, 0, 0.0)]
    _, credit = estimate(rows, [1.0, 0.0, 1.0, 0.0, 5.0, 1.0], reads)
    found = {m.label("source"): m.mean for m in credit.metrics if m.name == "explained_variance"}
    assert found == pytest.approx({"known": 1.0, "unknown": -3.0})  # `flat` has nothing to explain


def reference(
    reward: list[float], value: list[float], mask: list[int], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """verl's loop, in words of its own: a masked token passes on the value and the advantage that came to it."""
    later, running, out = 0.0, 0.0, [0.0] * len(reward)
    for t in reversed(range(len(reward))):
        if mask[t]:
            running = reward[t] + gamma * later - value[t] + gamma * lam * running
            later = value[t]
        out[t] = running
    return out, [a + v for a, v in zip(out, value, strict=True)]


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.booleans()), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.95, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_masked_tokens_carry_value_and_advantage(
    tokens: list[tuple[float, float, bool]], gamma: float, lam: float
) -> None:
    mask = [1, *(int(m) for _, _, m in tokens[1:])]
    reward = [r if m else 0.0 for (r, _, _), m in zip(tokens, mask, strict=True)]
    value = [v for _, v, _ in tokens]
    row = trajectory([1] * len(tokens), turn=list(range(len(tokens))), forced=[not m for m in mask])
    reads = [(0, t, v) for t, v in enumerate(value)]
    _, credit = estimate([row], reward, reads, gamma=gamma, lam=lam)
    advantage, returns = reference(reward, value, mask, gamma, lam)
    assert near(credit.advantage, [a * m for a, m in zip(advantage, mask, strict=True)])
    assert credit.returns is not None
    chosen = torch.tensor(mask).bool()
    assert near(credit.returns[chosen], torch.tensor(returns)[chosen].tolist())
