"""Merging parts equals looking at everything at once; what the store is given it gives back."""

from __future__ import annotations

import math
import statistics
import tempfile
from fractions import Fraction
from functools import reduce
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.core.verdict import Call, Component, RewardEvent, Seen
from triune.monitor.metric import Metric, merge
from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store

finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.lists(st.floats(), min_size=1, max_size=12)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@given(st.lists(values, min_size=1, max_size=5), st.randoms())
def test_any_order_of_merging_parts_equals_the_whole(parts: list[list[float]], random: object) -> None:
    whole = Metric.of("x", [value for part in parts for value in part])
    metrics = [Metric.of("x", part) for part in parts]
    random.shuffle(metrics)  # type: ignore[attr-defined]
    assert reduce(Metric.merge, metrics) == whole
    middle = len(metrics) // 2
    halves = [reduce(Metric.merge, half) for half in (metrics[:middle], metrics[middle:]) if half]
    assert reduce(Metric.merge, reversed(halves)) == whole
    assert merge(metrics) == [whole]


@given(st.lists(finite, min_size=1, max_size=12))
def test_moments_are_the_exact_ones_rounded_once(observed: list[float]) -> None:
    metric = Metric.of("x", observed)
    exact = [Fraction(value) for value in observed]
    assert metric.mean == float(sum(exact) / len(exact))
    assert (metric.min, metric.max) == (min(observed), max(observed))
    try:
        expected = statistics.pstdev(exact)
    except OverflowError:  # the variance of huge floats is no float, the deviation is
        assert math.isfinite(metric.std)
    else:
        assert math.isclose(metric.std, expected, rel_tol=1e-12, abs_tol=1e-300)


labels = st.dictionaries(
    st.sampled_from(["source", "task", "component", "word", "module"]), names, max_size=3
)
metrics_lists = st.lists(st.tuples(names, labels, values), max_size=6)


@settings(max_examples=25, deadline=None)
@given(metrics_lists)
def test_metrics_survive_the_store(rows: list[tuple[str, dict[str, str], list[float]]]) -> None:
    metrics = merge(Metric.of(name, observed, **tags) for name, tags, observed in rows)
    with tempfile.TemporaryDirectory() as run_dir:
        with Store(run_dir) as store:
            store.log_step(3, "train", metrics)
        with Store(run_dir, readonly=True) as store:
            assert store.names() == sorted({metric.name for metric in metrics}, key=lambda s: s.encode())
            for metric in metrics:
                tags = dict(metric.labels)
                found = store.series(metric.name, by=("source", "task", "component", "word", "module"))
                (point,) = found[
                    tuple(tags.get(k, "") for k in ("source", "task", "component", "word", "module"))
                ]
                assert (point.step, point.count, point.nonfinite) == (3, metric.count, metric.nonfinite)
                kept = (point.mean, point.std, point.min, point.max)
                given_ = (metric.mean, metric.std, metric.min, metric.max)
                assert kept == given_ if metric.count else all(map(math.isnan, kept))


def test_a_nul_in_a_label_is_kept_as_a_replacement_character(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.log_step(1, "train", [Metric.of("x", [1.0], word="a\0b")])
        assert set(store.series("x", by=("word",))) == {("a\ufffdb",)}


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | finite | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
floats32 = st.lists(st.floats(width=32), max_size=5).map(lambda seen: np.array(seen, np.float32))
ints32 = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5).map(lambda seen: np.array(seen, np.int32))
components = st.builds(
    Component,
    name=text,
    value=finite,
    weight=finite,
    detail=text,
    metrics=st.dictionaries(text, finite, max_size=2),
)
rollouts = st.builds(
    Rollout,
    step=st.just(1),
    phase=st.just("train"),
    truth=json_values,
    seed=st.integers(0, 2**128),
    rank=st.integers(0, 2**31 - 1),
    reward=st.none() | finite,
    advantage=st.none() | finite,
    components=st.lists(components, max_size=2).map(tuple),
    calls=st.lists(st.builds(Call, turn=st.integers(0, 9), name=text), max_size=2).map(tuple),
    media=st.lists(hashes, max_size=2).map(tuple),
    seen=st.lists(
        st.builds(Seen, sha256=hashes, original=st.just((3, 4)), processed=st.just((28, 28))), max_size=2
    ).map(tuple),
    turns=st.integers(0, 9),
    prompt_tokens=st.none() | st.integers(0, 99),
    response_tokens=st.integers(0, 99),
    version_min=st.integers(-1, 9),
    version_max=st.integers(-1, 9),
    judge_seconds=finite,
    logp=floats32,
    ids=st.none() | ints32,
    origin=st.none() | ints32,
    events=st.lists(
        st.builds(RewardEvent, decision=st.integers(0, 9), name=text, value=st.none() | finite), max_size=2
    ).map(tuple),
    token_advantage=st.none() | floats32,
    **dict.fromkeys(
        (
            "id",
            "sample",
            "sample_sha",
            "source",
            "task",
            "group",
            "prompt",
            "response",
            "status",
            "ending",
            "reason",
        ),
        text,
    ),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(rollouts, min_size=1, max_size=3))
def test_rollouts_survive_the_store(rows: list[Rollout]) -> None:
    with tempfile.TemporaryDirectory() as run_dir, Store(run_dir) as store:
        store.log_step(1, "train", [], rollouts=rows)
        found = store.rollouts("train", 1)
    assert len(found) == len(rows)
    for kept, row in zip(found, rows, strict=True):
        for name in Rollout.__slots__:
            here, there = getattr(kept, name), getattr(row, name)
            if isinstance(there, np.ndarray):
                assert here.dtype == there.dtype
                assert here.tobytes() == there.tobytes()
            else:
                assert here == there, name
