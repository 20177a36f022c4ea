"""Schedules: bounds, units, and what stands still at evaluation."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from triune.core.schedule import Linear, Progress, Steps, WarmupCosine, resolve

STAGES = Steps(table=((1499, 0.5), (1500, 0.75)), unit="step")


@pytest.mark.parametrize(
    ("step", "total", "value"), [(1, 4000, 0.5), (1499, 4000, 0.5), (1500, 4000, 0.75), (4000, 4000, 0.75)]
)
def test_absolute_steps_switch_at_their_step_and_hold(step: int, total: int, value: float) -> None:
    assert resolve(STAGES, Progress(step=step, total_steps=total)) == value


def test_evaluation_stands_where_the_run_ends() -> None:
    assert resolve(STAGES, Progress(step=3, total_steps=4000, phase="eval")) == 0.75
    # A run that never gets to the second stage is not judged by it.
    assert resolve(STAGES, Progress(step=3, total_steps=1000, phase="eval")) == 0.5
    assert resolve(Linear(start=1.0, end=0.0), Progress(step=3, total_steps=10, phase="eval")) == 0.0


@pytest.mark.parametrize("step", range(1, 1001, 37))
def test_a_bound_includes_its_step_whatever_the_rounding(step: int) -> None:
    table = Steps(table=((step / 1000, 0.0), (1.0 if step < 1000 else 2.0, 1.0)))
    assert resolve(table, Progress(step=step, total_steps=1000)) == 0.0
    if step < 1000:
        assert resolve(table, Progress(step=step + 1, total_steps=1000)) == 1.0


@pytest.mark.parametrize(
    "table",
    [((0.5, 1.0),), ((1.0, 1.0), (0.5, 2.0)), ((1.0, 1.0), (1.0, 2.0)), ((float("nan"), 1.0), (1.0, 1.0))],
)
def test_bounds_that_do_not_rise_to_the_end_are_refused(table: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValidationError, match="rise strictly"):
        Steps(table=table)


def test_a_warm_up_rises_in_a_line_and_falls_by_a_cosine() -> None:
    mu = WarmupCosine(peak=0.5, valley=0.02, warmup=200, decay=400)
    rest = WarmupCosine(start=1.0, peak=0.5, valley=0.98, warmup=200, decay=400)
    share = WarmupCosine(peak=0.5, valley=0.02, warmup=0.2, decay=0.4, unit="fraction")
    for step in range(0, 1001, 7):
        now = Progress(step=step, total_steps=1000)
        assert resolve(mu, now) + resolve(rest, now) == pytest.approx(1.0, abs=1e-15)
        assert resolve(share, now) == pytest.approx(resolve(mu, now), abs=1e-12)
    assert resolve(mu, Progress(step=1, total_steps=1000, phase="eval")) == 0.02
    # Without a decay it is at the valley at once; without either, always.
    assert (
        resolve(WarmupCosine(peak=1, valley=0.5, warmup=4, decay=0), Progress(step=4, total_steps=9)) == 0.5
    )
    assert (
        resolve(WarmupCosine(peak=1, valley=0.5, warmup=0, decay=0), Progress(step=0, total_steps=9)) == 0.5
    )
