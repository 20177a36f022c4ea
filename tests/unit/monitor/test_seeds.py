"""Intervals over seeds and samples, held to the truth by simulation and to a bootstrap by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from triune.monitor.seeds import Block, effect, interval
from triune.monitor.stats import bootstrap

N, TASKS = 120, 2
STRATA = np.arange(N, dtype=np.int64) % TASKS


def answers(
    rng: np.random.Generator, runs: int, level: float, spread: float, difficulty: np.ndarray
) -> np.ndarray:
    """Accuracy 0 or 1, f64[runs, N]: a training has a level of its own, and every run finds the same samples hard."""
    levels = rng.normal(level, spread, (runs, 1))
    return (rng.random((runs, N)) < np.clip(levels + difficulty, 0, 1)).astype(np.float64)


@pytest.mark.parametrize(("runs", "spread"), [(2, 0.06), (3, 0.06), (3, 0.0), (5, 0.03)])
def test_the_interval_of_seeds_and_samples_covers_the_truth_as_often_as_it_says(
    runs: int, spread: float
) -> None:
    rng = np.random.default_rng(runs)
    hits = alone = 0
    trials = 300
    for trial in range(trials):
        difficulty = rng.uniform(-0.2, 0.2, N)
        first, second = (answers(rng, runs, level, spread, difficulty) for level in (0.4, 0.55))
        low, high = effect([Block(first, second, STRATA)]).ci95 or (0.0, 0.0)
        hits += low <= 0.15 <= high
        if spread and trial < 60:
            one = effect([Block(first[:1], second[:1], STRATA)])
            assert one.covers == "samples"
            low, high = one.ci95 or (0.0, 0.0)
            alone += low <= 0.15 <= high
    assert 0.925 <= hits / trials <= 0.995
    if spread == 0.06:
        # What covers samples alone says how far two policies are apart, and misses what the recipes are worth.
        assert alone / 60 < 0.9


def test_seeds_with_samples_of_their_own_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        blocks = []
        for _ in range(3):
            difficulty = rng.uniform(-0.2, 0.2, N)
            first, second = (answers(rng, 1, level, 0.06, difficulty) for level in (0.4, 0.55))
            blocks.append(Block(first, second, STRATA))
        found = effect(blocks)
        low, high = found.ci95 or (0.0, 0.0)
        hits += low <= 0.15 <= high
    assert 0.935 <= hits / 300 <= 0.997  # with three seeds it errs on the wide side


def test_seeds_that_agree_by_chance_do_not_make_an_interval_without_width() -> None:
    first, second = np.array([[0.0, 1.0, 0.0, 1.0]]), np.array([[1.0, 1.0, 0.0, 1.0]])
    strata = np.zeros(4, np.int64)
    found = effect([Block(first, second, strata), Block(first[:, ::-1], second[:, ::-1], strata)])
    # Of samples alone: the variance of (1, 0, 0, 0) is 1/4, over four samples and two seeds 1/32; Student's 12.7 for two.
    half = 12.7062 * np.sqrt(1 / 32)
    assert found.gain == 0.25
    assert found.ci95 == pytest.approx((0.25 - half, 0.25 + half), abs=1e-4)


def test_with_many_seeds_it_is_what_resampling_seeds_and_samples_gives() -> None:
    rng = np.random.default_rng(5)
    difficulty = rng.uniform(-0.2, 0.2, N)
    other = difficulty + rng.uniform(-0.2, 0.2, N)  # what one recipe learns is not what the other learns
    first, second = answers(rng, 30, 0.4, 0.08, difficulty), answers(rng, 30, 0.55, 0.08, other)
    found = effect([Block(first, second, STRATA)])
    means = []
    for _ in range(3000):
        a, b = first[rng.integers(30, size=30)], second[rng.integers(30, size=30)]
        apart = b.mean(axis=0) - a.mean(axis=0)
        picks = [rng.choice(apart[task == STRATA], N // TASKS).mean() for task in range(TASKS)]
        means.append(np.mean(picks))
    assert found.ci95 == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_one_run_a_side_is_the_bootstrap_over_samples() -> None:
    rng = np.random.default_rng(6)
    first, second = rng.random((1, N)), rng.random((1, N))
    apart = (second - first)[0]
    found = effect([Block(first, second, STRATA)], seed=3)
    assert found.ci95 == bootstrap([apart[::2], apart[1::2]], seed=3)
    assert found.gain == pytest.approx(np.mean([apart[::2].mean(), apart[1::2].mean()]))


def test_what_has_nothing_to_tell_its_spread_from_has_no_interval() -> None:
    one = np.ones((2, 1))
    assert effect([Block(one, one, np.zeros(1, np.int64))]).ci95 is None
    assert effect([Block(one[:1], one[:1], np.zeros(1, np.int64))]).ci95 is None


def test_students_interval_is_the_textbooks() -> None:
    # Welch's example: variances 1 and 4 with 9 and 4 degrees of freedom: 25 / (1/9 + 16/4) = 6.08.
    low, high = interval(0.0, [(1.0, 9), (4.0, 4)])
    assert high == pytest.approx(2.4385 * np.sqrt(5), abs=0.01)
    assert low == -high
    assert interval(2.0, [(0.0, 3)]) == (2.0, 2.0)
