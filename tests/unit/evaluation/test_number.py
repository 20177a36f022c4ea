"""Intervals: Wilson's by published values, the bootstrap's by what it must contain."""

from __future__ import annotations

import numpy as np
import pytest

from triune.evaluation.number import count, draws, mean, resampled, share


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe 1998, Table I, method 3 (score without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_shares_have_wilsons_interval(hits: int, n: int, low: float, high: float) -> None:
    found = share([True] * hits + [False] * (n - hits))
    assert found.value == pytest.approx(hits / n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert found.interval == "wilson"


def test_means_have_a_bootstrap_interval_that_shrinks_with_the_root_of_n() -> None:
    values = np.random.default_rng(0).normal(size=400)
    small, large = mean(values[:100]), mean(np.tile(values[:100], 4))
    assert small.low is not None
    assert small.high is not None
    assert large.low is not None
    assert large.high is not None
    assert small.low < values[:100].mean() < small.high
    assert (large.high - large.low) / (small.high - small.low) == pytest.approx(0.5, rel=0.15)
    assert small.high - small.low == pytest.approx(2 * 1.96 * values[:100].std() / 10, rel=0.1)


def test_a_mean_of_zeros_and_ones_is_a_share() -> None:
    assert mean([0.0] * 20) == share([False] * 20)
    assert mean([0.0, 1.0, 1.0]) == share([False, True, True])


def test_what_cannot_be_divided_is_undefined_and_never_zero() -> None:
    assert share([]).value is None
    assert mean([]).value is None
    assert mean([0.5]).interval == ""
    assert str(share([])) == "-"
    assert str(count(3, 8)) == "3"
    assert resampled(None, 5, [None] * 500).value is None


def test_resamples_of_a_mean_agree_with_the_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(1).random(200)
    drawn = draws(200, lambda counts: float(counts @ values / counts.sum()))
    found, other = resampled(float(values.mean()), 200, drawn), mean(values)
    assert found.low == pytest.approx(other.low, abs=0.01)
    assert found.high == pytest.approx(other.high, abs=0.01)


def test_undefined_resamples_are_left_out_and_too_many_leave_no_interval() -> None:
    assert resampled(0.5, 9, [0.4, 0.6] * 200 + [None] * 100).interval == "bootstrap"
    assert resampled(0.5, 9, [0.5] * 100 + [None] * 400).interval == ""
