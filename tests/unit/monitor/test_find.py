"""Rollouts are found by what the index holds, and by their texts; pages follow each other whatever the order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.monitor import index
from triune.monitor.index import Page, Query, Range
from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store

from .making import make_sample, make_scored


def rollout(step: int = 1, phase: str = "train", value: float | None = 1.0, **fields: Any) -> Rollout:
    return replace(Rollout.of(step, phase, make_scored(value)), **fields)


def keep(store: Store, rollouts: list[Rollout]) -> None:
    for step, phase in sorted({(one.step, one.phase) for one in rollouts}):
        mine = [one for one in rollouts if (one.step, one.phase) == (step, phase)]
        store.log_step(step, phase, [], rollouts=mine)


def walk(store: Store, query: Query) -> Iterator[Page]:
    page = store.find(query)
    yield page
    while page.next is not None:
        page = store.find(replace(query, after=page.next))
        yield page


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as store:
        yield store


def test_a_row_says_what_the_rollout_says(store: Store) -> None:
    one = make_scored(0.5, make_sample(3), rank=2, tokens=7, reason="overlong")
    other = make_scored(None, make_sample(1, "ocr/lines"))
    renamed = replace(
        one, trajectory=one.trajectory.model_copy(update={"id": "x", "group": "y", "component": "expert"})
    )
    kept = [Rollout.of(5, "train", each, 0.25) for each in (one, other, renamed)]
    store.log_step(5, "train", [], rollouts=kept)
    page = store.find(Query(order="step"))
    assert (page.total, page.scanned, page.next, page.problems) == (3, 3, None, ())
    for number, (row, logged) in enumerate(zip(page.rows, kept, strict=True)):
        assert row.row == number
        for name in (
            "step", "phase", "id", "sample", "sample_sha", "source", "task", "group", "rank", "component", "reward",
            "accuracy", "correct", "status", "ending", "advantage",
        ):  # fmt: skip
            assert getattr(row, name) == getattr(logged, name), name
        assert row.length == logged.response_tokens
        assert row.components == {part.name: part.value for part in logged.components}


bounds = st.tuples(st.none() | st.sampled_from([0.0, 0.5]), st.none() | st.sampled_from([0.5, 1.0]))
names = st.sampled_from(["a", "b", "it's", '"c"%'])
choice = st.lists(names, max_size=2)
value = st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0])
kept_rollouts = st.builds(
    rollout,
    step=st.integers(1, 4),
    phase=st.sampled_from(["train", "eval"]),
    value=value,
    source=names,
    task=names,
    sample=names,
    group=names,
    status=st.sampled_from(["ok", "timeout"]),
    ending=st.sampled_from(["answered", "max_turns"]),
    response_tokens=st.integers(0, 2),
    reward=value,
    advantage=value,
    correct=st.none() | st.booleans(),
    prompt=st.sampled_from(["How many?", "STRASSE 100%", "Straße", "_"]),
    response=st.sampled_from(["\\boxed{3}", "four", "<script>", ""]),
)
queries = st.builds(
    Query,
    phase=st.none() | st.sampled_from(["train", "eval"]),
    steps=st.tuples(st.none() | st.integers(1, 3), st.none() | st.integers(2, 4)),
    sources=choice,
    tasks=choice,
    samples=choice,
    groups=choice,
    reward=bounds,
    correct=st.none() | st.booleans(),
    statuses=st.sampled_from([(), ("ok",), ("timeout", "ok")]),
    components=st.dictionaries(st.sampled_from(["count", "nothing"]), bounds, max_size=1),
    length=bounds,
    endings=st.sampled_from([(), ("answered",)]),
    text=st.sampled_from(["", "", "boxed", "STRASSE", "%", "_", "SCRIPT>"]),
    order=st.sampled_from(get_args(index.Order)),
    limit=st.integers(1, 5),
)


def inside(value: float | None, bounds: Range) -> bool:
    low, high = bounds
    if low is None and high is None:
        return True
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def wanted(one: Rollout, query: Query) -> bool:
    parts = {part.name: part.value for part in one.components}
    return (
        query.phase in (None, one.phase)
        and inside(one.step, query.steps)
        and all(
            not chosen or have in chosen
            for have, chosen in (
                (one.source, query.sources),
                (one.task, query.tasks),
                (one.sample, query.samples),
                (one.group, query.groups),
                (one.status, query.statuses),
                (one.ending, query.endings),
            )
        )
        and inside(one.reward, query.reward)
        and inside(one.response_tokens, query.length)
        and (query.correct is None or one.correct is query.correct)
        and all(inside(parts.get(name), bounds) for name, bounds in query.components.items())
    )


def place(key: tuple[int, str, int], one: Rollout, order: str) -> tuple[Any, ...]:
    step, phase, row = key
    column, sign = order.removeprefix("-"), -1 if order.startswith("-") else 1
    if column == "step":
        return (sign * step, phase, row)
    have = one.response_tokens if column == "length" else getattr(one, column)
    return (have is None, sign * (have or 0.0), step, phase, row)


@settings(max_examples=25, deadline=None)
@given(st.lists(kept_rollouts, max_size=12), queries, st.sampled_from([1, 64]))
def test_finding_is_filtering_and_sorting(rollouts: list[Rollout], query: Query, shards: int) -> None:
    with (
        tempfile.TemporaryDirectory() as run_dir,
        Store(run_dir) as store,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(index, "SHARDS_PER_CALL", shards)
        keep(store, rollouts)
        stored = {
            (step, phase, row): one
            for phase in store.phases()
            for step in store.steps(phase)
            for row, one in enumerate(store.rollouts(phase, step))
        }
        filtered = sorted(
            (place(key, one, query.order), key) for key, one in stored.items() if wanted(one, query)
        )
        expected = [
            key
            for _, key in filtered
            if query.text.casefold() in stored[key].prompt.casefold()
            or query.text.casefold() in stored[key].response.casefold()
        ]
        pages = list(walk(store, query))
        assert [(row.step, row.phase, row.row) for page in pages for row in page.rows] == expected
        assert {page.total for page in pages} == {len(filtered)}
        assert sum(page.scanned for page in pages) == len(filtered)
        assert all(len(page.rows) <= query.limit for page in pages)


def test_a_search_in_texts_opens_so_many_files_and_goes_on_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SHARDS_PER_CALL", 3)
    for step in range(1, 11):
        keep(store, [rollout(step, response="needle" if step == 2 else "hay")])
    pages = list(walk(store, Query(text="Needle")))
    assert [page.scanned for page in pages] == [3, 3, 3, 1]
    assert [row.step for page in pages for row in page.rows] == [2]
    assert [page.total for page in pages] == [10] * 4


def test_pages_stand_still_while_steps_are_added(store: Store) -> None:
    keep(store, [rollout(step) for step in (1, 2, 3)])
    first = store.find(Query(limit=2))
    keep(store, [rollout(4)])
    second = store.find(Query(limit=2, after=first.next))
    assert [row.step for row in (*first.rows, *second.rows)] == [3, 2, 1]


def test_logging_again_and_going_back_take_rows_with_them(store: Store) -> None:
    keep(
        store,
        [
            rollout(step, phase, rank=rank)
            for step in (1, 2)
            for phase in ("train", "eval")
            for rank in (0, 1)
        ],
    )
    keep(store, [rollout(2, rank=7)])
    assert [row.rank for row in store.find(Query(steps=(2, 2))).rows] == [7]
    store.rewind(1)
    assert {row.step for row in store.find(Query(phase=None)).rows} == {1}
    store.log_step(1, "train", [])
    assert [row.phase for row in store.find(Query(phase=None)).rows] == ["eval", "eval"]
    assert store.rollout_steps() == []


@pytest.mark.parametrize(
    ("how", "says"), [("gone", "is gone"), ("half", "half-written"), ("same size", "damaged")]
)
def test_a_file_that_cannot_be_read_is_a_problem_not_the_end(store: Store, how: str, says: str) -> None:
    for step in (1, 2, 3):
        keep(store, [rollout(step, response="needle")])
    file = store.run_dir / "rollouts" / "train" / "00000002.parquet"
    data = file.read_bytes()
    file.unlink()
    if how != "gone":
        file.write_bytes(data[: len(data) // 2] if how == "half" else b"x" * len(data))
    assert [row.step for row in store.find(Query()).rows] == [3, 2, 1]
    page = store.find(Query(text="needle"))
    assert [row.step for row in page.rows] == [3, 1]
    (problem,) = page.problems
    assert str(file) in problem
    assert says in problem


def test_a_step_that_is_logged_again_while_it_is_read(store: Store) -> None:
    def again(number: int) -> None:
        keep(
            store,
            [rollout(1, response="needle " * (1 + number % 7), rank=rank) for rank in range(1 + number % 3)],
        )

    again(0)
    writing, reads = True, 0

    def read() -> None:
        nonlocal reads
        with Store(store.run_dir, readonly=True) as reader:
            while writing:
                assert {one.step for one in reader.rollouts("train", 1)} == {1}
                assert reader.find(Query(text="needle")).problems == ()
                reads += 1

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for number in range(1, 60):
            again(number)
        writing = False
        reading.result(timeout=60)
    assert reads


@pytest.mark.parametrize("cursor", ["", "x", "[]", "[1]", '{"a": 1}', "1", "[[], 1, 2]", f"[{2**70}, 1, 2]"])
def test_a_cursor_of_something_else_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(ValueError, match="not the `next` of a page"):
        store.find(Query(after=cursor))


def test_bad_queries() -> None:
    bad: Any = "reward; DROP TABLE steps"
    with pytest.raises(ValueError, match="not an order"):
        Query(order=bad)
    with pytest.raises(ValueError, match="at least one row"):
        Query(limit=0)


def test_odd_names_and_bounds(store: Store) -> None:
    odd = "a\0b' OR 1 --<script>\N{RIGHT-TO-LEFT OVERRIDE}"
    sample = make_sample(1, odd, id=odd)
    keep(store, [Rollout.of(1, "train", make_scored(1.0, sample, rank=3))])
    (row,) = store.find(Query(sources=(odd,), samples=(odd,), groups=(odd,), steps=(-(2**80), 2**80))).rows
    assert (row.id, row.sample, row.group, row.source) == (f"{odd}#3", odd, odd, odd)
    assert store.find(Query(reward=(float("nan"), None))).rows == ()
    assert store.series("x", since=2**80, until=2**81) == {}


def test_values_that_json_does_not_know(store: Store) -> None:
    one = make_scored(1.0)
    parts = tuple(part.model_copy(update={"value": float("nan")}) for part in one.verdict.components)
    keep(
        store,
        [replace(Rollout.of(1, "train", one), components=parts, reward=float("inf"), advantage=float("nan"))],
    )
    (row,) = store.find(Query(components={"count": (None, None)}, order="-reward")).rows
    assert (row.reward, row.advantage) == (float("inf"), None)
    assert set(row.components.values()) == {None}
    assert store.find(Query(components={"count": (0.0, None)})).rows == ()
