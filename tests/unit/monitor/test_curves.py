"""Long curves: rolled up, they are what merging every value by hand gives, also when steps were logged again."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.monitor import rollups
from triune.monitor.metric import Metric, merge
from triune.monitor.points import Point
from triune.monitor.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as store:
        yield store


def log(store: Store, step: int, values: dict[str, list[float]], phase: str = "train") -> None:
    store.log_step(step, phase, [Metric.of("x", seen, source=source) for source, seen in values.items()])


def by_hand(
    steps: dict[int, dict[str, list[float]]], width: int, sources: tuple[str, ...]
) -> list[tuple[int, Metric]]:
    """The last step and all values of each bucket, of these sources together."""
    buckets: dict[int, list[tuple[int, Metric]]] = defaultdict(list)
    for step, values in sorted(steps.items()):
        for source in sources:
            if source in values:
                buckets[step // width].append((step, Metric.of("x", values[source])))
    return [(many[-1][0], merge(metric for _, metric in many)[0]) for many in buckets.values()]


def same(points: list[Point], expected: list[tuple[int, Metric]]) -> None:
    assert [point.step for point in points] == [step for step, _ in expected]
    for point, (_, metric) in zip(points, expected, strict=True):
        assert (point.count, point.nonfinite) == (metric.count, metric.nonfinite)
        if not metric.count:
            assert all(map(math.isnan, (point.mean, point.std, point.min, point.max)))
            continue
        assert (point.min, point.max) == (metric.min, metric.max)
        size = max(abs(metric.min), abs(metric.max))
        assert math.isclose(point.mean, metric.mean, rel_tol=1e-9, abs_tol=1e-12 * size)
        assert math.isclose(point.std, metric.std, rel_tol=1e-6, abs_tol=1e-9 * size)


value = st.floats(-1e200, 1e200) | st.sampled_from([0.0, 1.0, math.nan, math.inf])
values = st.dictionaries(st.sampled_from("ab"), st.lists(value, min_size=1, max_size=3), max_size=2)
log_or_rewind = st.tuples(st.integers(0, 40), values | st.none())


@settings(max_examples=25, deadline=None)
@given(
    st.lists(log_or_rewind, max_size=40),
    st.integers(1, 12),
    st.none() | st.integers(0, 20),
    st.none() | st.integers(10, 45),
)
def test_rollups_are_merging_by_hand(
    done: list[tuple[int, dict[str, list[float]] | None]], points: int, since: int | None, until: int | None
) -> None:
    with (
        tempfile.TemporaryDirectory() as run_dir,
        pytest.MonkeyPatch.context() as patch,
        Store(run_dir) as store,
    ):
        patch.setattr(rollups, "WIDTHS", (2, 4, 16))
        patch.setattr("triune.monitor.curves.WIDTHS", (2, 4, 16))
        kept: dict[int, dict[str, list[float]]] = {}
        log(store, 3, {"a": [7.0]}, "eval")  # another phase in the same tables
        for step, observed in done:
            if observed is None:
                store.rewind(step)
                kept = {known: seen for known, seen in kept.items() if known <= step}
            else:
                log(store, step, observed)
                kept[step] = observed
        chosen = {
            step: seen
            for step, seen in kept.items()
            if (since or 0) <= step <= (math.inf if until is None else until)
        }
        width = 1
        while len({step // width for step in chosen}) > points:
            width *= 2
        found = store.series("x", since=since, until=until, points=points)
        for source in "ab":
            expected = by_hand(chosen, width, (source,))
            got = found.get((source,), [])
            assert len(got) <= points
            if len(chosen) <= points or len(got) == len(expected):  # coarser is allowed, where it was enough
                same(got, expected)
            assert sum(point.count for point in got) == sum(metric.count for _, metric in expected)
        full = store.series("x", since=since, until=until)
        for source in "ab":
            same(full.get((source,), []), by_hand(chosen, 1, (source,)))
        same(store.series("x", by=(), since=since, until=until).get((), []), by_hand(chosen, 1, ("a", "b")))
        latest = store.latest("x")
        for source in "ab":
            last = by_hand(kept, 1, (source,))[-1:]
            same([latest[source,]] if (source,) in latest else [], last)


def test_a_long_curve_reads_rollups_and_a_short_one_does_not(store: Store) -> None:
    for step in range(1, 201):
        log(store, step, {"a": [float(step)], "b": [1.0, 0.0]})
    (whole,) = store.series("x", by=(), points=1).values()
    assert [(point.step, point.count, point.max) for point in whole] == [(200, 600, 200.0)]
    for points in (4, 10, 40, 100, 199):
        for series in store.series("x", points=points).values():
            assert points / 4 <= len(series) <= points
            assert sum(point.count for point in series) in (200, 400)
            assert series[-1].step == 200
    assert len(store.series("x", points=200)["a",]) == 200
    assert [point.step for point in store.series("x", since=190, points=50)["a",]] == list(range(190, 201))
    # Damage the points of closed buckets: what is drawn comes from rollups, and only the open end from points.
    with contextlib.closing(sqlite3.connect(store.run_dir / "metrics.sqlite")) as db:
        db.execute("DELETE FROM points WHERE step < 192")
        db.commit()
    assert sum(point.count for point in store.series("x", points=90)["a",]) == 200
    with pytest.raises(ValueError, match="at least one point"):
        store.series("x", points=0)


def test_the_last_point_of_a_curve_that_ended_long_ago(store: Store) -> None:
    log(store, 3, {"gone": [5.0]})
    for step in range(4, 140):
        log(store, step, {"a": [float(step)]} if step % 30 else {"rare": [float(step)]})
    assert {key: (point.step, point.mean) for (key,), point in store.latest("x").items()} == {
        "gone": (3, 5.0),
        "a": (139, 139.0),
        "rare": (120, 120.0),
    }
    assert store.latest("nothing") == store.latest("x", phase="eval") == {}


def test_huge_values_do_not_overflow(store: Store) -> None:
    store.log_step(1, "train", [Metric.of("x", [value], source=str(value)) for value in (1e300, -1e300)])
    (point,) = store.series("x", by=())[()]
    assert (point.mean, point.std) == (0.0, pytest.approx(1e300))


def test_the_version_changes_with_every_commit_of_whoever(store: Store) -> None:
    with Store(store.run_dir, readonly=True) as reader:
        seen = [(reader.version, store.version)]
        log(store, 1, {"a": [1.0]})
        seen.append((reader.version, store.version))
        store.rewind(0)
        seen.append((reader.version, store.version))
        assert reader.version == seen[-1][0]
    assert all(mine == its for mine, its in seen)
    assert len(set(seen)) == 3


def test_a_reader_never_misses_a_step_while_buckets_are_closed(store: Store) -> None:
    log(store, 1, {"a": [1.0]})
    found: list[tuple[int, int]] = []

    def read() -> None:
        with Store(store.run_dir, readonly=True) as reader:
            while not found or found[-1][0] < 150:
                points = reader.series("x", points=8)["a",]
                found.append((points[-1].step, sum(point.count for point in points)))

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for step in range(2, 151):
            log(store, step, {"a": [1.0]})
        reading.result(timeout=60)
    assert all(last == count for last, count in found)
    assert len(set(found)) > 2
