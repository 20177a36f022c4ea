from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triune.monitor.bands import HELD_OUT, Band, Curve, align, band, curves, difference
from triune.monitor.monitor import Monitor
from triune.monitor.store import Store

from .making import group, make_scored


def curve(steps: list[int], values: list[float]) -> Curve:
    return Curve(np.array(steps, np.int64), np.array(values))


def test_curves_of_a_run(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_step(0, "eval-before", [make_scored(0.0)])
        for step in (1, 2, 4):
            monitor.log_step(step, "train", group([1.0, step / 4]))
        monitor.log_step(4, "eval", [make_scored(0.5)])
        monitor.log_step(4, "eval-after", [make_scored(1.0)])
    with Store(tmp_path, readonly=True) as store:
        (reward,) = curves(store, "reward").values()
        (held_out,) = curves(store, "accuracy", phases=HELD_OUT).values()
        assert curves(store, "nothing") == {}
    assert reward.steps.tolist() == [1, 2, 4]
    assert held_out.steps.tolist() == [0, 4]
    assert held_out.values.tolist() == [0.0, 1.0]  # of one step in two phases the later phase


def test_runs_logged_at_other_steps_are_aligned_where_all_have_been() -> None:
    steps, values, made = align([curve([0, 10, 20, 30], [0, 1, 2, 3]), curve([5, 10, 25], [1.0, 2.0, 5.0])])
    assert steps.tolist() == [5, 10, 20, 25]
    assert values.tolist() == [[0.5, 1.0, 2.0, 2.5], [1.0, 2.0, 4.0, 5.0]]
    assert made == 3


def test_a_difference_is_exact_at_common_steps_and_empty_without_a_common_range() -> None:
    found = difference(curve([1, 2, 3], [0.5, 0.25, 0.125]), curve([1, 2, 3, 4], [1.0, 1.0, 1.0, 9.0]))
    assert found.steps.tolist() == [1, 2, 3]
    assert found.values.tolist() == [0.5, 0.75, 0.875]
    assert len(difference(curve([1, 2], [0, 0]), curve([3, 4], [0, 0]))) == 0
    assert len(difference(curve([], []), curve([3, 4], [0, 0]))) == 0


def test_few_seeds_have_a_band_of_what_was_seen() -> None:
    found = band([curve([1, 2], [0.0, 1.0]), curve([1, 2], [1.0, 1.0]), curve([1, 2], [0.5, 0.25])])
    assert (found.kind, found.n, found.made) == ("min-max", 3, 0)
    assert found.mean.tolist() == [0.5, 0.75]
    assert (found.low.tolist(), found.high.tolist()) == ([0.0, 0.25], [1.0, 1.0])


def test_many_seeds_have_a_confidence_band() -> None:
    values = np.random.default_rng(0).random((6, 1))
    found = band([curve([1], [value]) for value in values[:, 0]])
    half = 2.570581836 * values.std(ddof=1) / np.sqrt(6)  # Student's quantile for five degrees of freedom
    assert found.kind == "t95"
    assert found.low[0] == pytest.approx(values.mean() - half)
    assert found.high[0] == pytest.approx(values.mean() + half)


def test_one_curve_has_no_band_and_none_is_an_error() -> None:
    one: Band = band([curve([1, 2], [0.0, 1.0])])
    assert (one.kind, one.low.tolist(), one.high.tolist()) == ("", [0.0, 1.0], [0.0, 1.0])
    assert len(band([curve([], [])] * 6).steps) == 0
    with pytest.raises(ValueError, match="at least one"):
        band([])
