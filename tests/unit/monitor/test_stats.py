from __future__ import annotations

import numpy as np
import pytest

from triune.monitor.stats import Score, bootstrap, paired_gains


def scores(values: list[float], source: str = "a/x", start: int = 0) -> list[Score]:
    return [Score(f"{source}/{start + i}", source, source.split("/")[0], v) for i, v in enumerate(values)]


def test_gains_per_source_task_and_over_tasks() -> None:
    before = scores([0.0, 0.0, 1.0, 0.0], "a/x") + scores([0.0, 0.5], "a/y") + scores([0.0] * 4, "b/z")
    after = (
        scores([1.0, 0.0, 1.0, 1.0], "a/x") + scores([1.0, 0.5], "a/y") + scores([0.0, 0.0, 0.0, 1.0], "b/z")
    )
    gains = paired_gains(before, after)
    assert (gains.sources["a/x"].before, gains.sources["a/x"].after, gains.sources["a/x"].gain) == (
        0.25,
        0.75,
        0.5,
    )
    assert gains.tasks["a"].n == 6
    assert gains.tasks["a"].gain == pytest.approx(0.5)
    assert gains.tasks["b"].gain == 0.25
    assert gains.mean.gain == pytest.approx(0.375)  # a task counts once, whatever its size
    assert gains.mean.n == 10
    low, high = gains.mean.ci95 or (0.0, 0.0)
    assert low < 0.375 < high


def test_the_interval_depends_on_nothing_but_the_values_and_the_seed() -> None:
    rng = np.random.default_rng(0)
    before, after = scores(rng.random(50).tolist()), scores(rng.random(50).tolist())
    first = paired_gains(before, after)
    assert paired_gains(before[::-1], after[::-1]) == first
    assert paired_gains(before, after, seed=1).tasks["a"].ci95 != first.tasks["a"].ci95
    more = paired_gains(before + scores([0.0, 1.0], "b/y"), after + scores([1.0, 1.0], "b/y"))
    assert more.tasks["a"] == first.tasks["a"]


def test_several_rollouts_of_a_sample_are_one_observation() -> None:
    before, after = scores([0.0, 1.0, 0.0]), scores([1.0, 1.0, 0.0])
    assert paired_gains(before * 4, after * 4).tasks == paired_gains(before, after).tasks


def test_a_sample_that_one_side_lacks_is_left_out_and_counted() -> None:
    gains = paired_gains(scores([0.0, 0.0, 0.0]), scores([1.0, 1.0, 1.0], start=1))
    assert (gains.tasks["a"].n, gains.tasks["a"].unpaired, gains.tasks["a"].gain) == (2, 2, 1.0)
    with pytest.raises(ValueError, match="no sample in common"):
        paired_gains(scores([0.0]), scores([0.0], start=5))


def test_one_sample_has_no_interval() -> None:
    assert paired_gains(scores([0.0]), scores([1.0])).mean.ci95 is None


def test_the_interval_is_close_to_the_normal_one_for_many_samples() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 400)
    low, high = bootstrap([values]) or (0.0, 0.0)
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(300):
        # Accuracy .4 to .6 on the same samples, in two tasks of unequal size: the true mean gain is .2.
        strata = []
        for size in (60, 120):
            before = rng.random(size) < 0.4
            after = np.where(before, rng.random(size) < 0.9, rng.random(size) < 0.4)
            strata.append(after.astype(float) - before)
        low, high = bootstrap(strata, seed=trial, resamples=400) or (0.0, 0.0)
        hits += low <= 0.2 <= high
    assert 0.91 <= hits / 300 <= 0.985


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.random(200)
    before, after = difficulty, np.clip(difficulty + 0.05, 0, 1)
    low, high = paired_gains(scores(before.tolist()), scores(after.tolist())).mean.ci95 or (0.0, 0.0)
    assert high - low < 0.01
    assert low > 0
