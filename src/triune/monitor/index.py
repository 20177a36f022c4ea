"""The index of a run's rollouts: one short row each in SQLite, so that they are found without opening their files.

Whole rollouts are in the Parquet shards that the table `shards` lists, one per step and phase. Only a search in texts
opens them, and a bounded number of them per call.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from pydantic_core import to_json

from triune.core.errors import StorageError
from triune.monitor.rollouts import Rollout, from_parquet, texts
from triune.monitor.shards import Shards

Range = tuple[float | None, float | None]
"""Least and greatest, both included; None: no bound. A rollout without the value is outside of any bound."""
Order = Literal[
    "step", "-step", "reward", "-reward", "accuracy", "-accuracy", "advantage", "-advantage", "length", "-length"
]  # fmt: skip

SHARDS_PER_CALL = 64
"""How many shards a search in texts opens before it hands back what it has."""
_BATCH = 512
_LARGE = 2**62  # integers beyond are no step, no number of tokens, and nothing that SQLite takes


@dataclass(frozen=True, slots=True)
class Query:
    """Which rollouts, in which order. What is empty or None does not filter.

    `phase` None means all phases. `components` bounds values by component. `length` is in sampled tokens. `text` is
    looked for in prompt and response, in any case. `order` names a column, falling with a minus; rollouts without the
    value come last, equal ones by step, phase and row. `after` is the `next` of the page before.
    """

    phase: str | None = "train"
    steps: Range = (None, None)
    sources: Sequence[str] = ()
    tasks: Sequence[str] = ()
    samples: Sequence[str] = ()
    groups: Sequence[str] = ()
    reward: Range = (None, None)
    correct: bool | None = None
    statuses: Sequence[str] = ()
    components: Mapping[str, Range] = field(default_factory=dict)
    length: Range = (None, None)
    endings: Sequence[str] = ()
    text: str = ""
    order: Order = "-step"
    limit: int = 50
    after: str | None = None

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise ValueError(f"not an order: {self.order!r}; one of {', '.join(get_args(Order))}")
        if self.limit < 1:
            raise ValueError(f"a page has at least one row, not {self.limit}")


@dataclass(frozen=True, slots=True)
class Row:
    """A rollout's entry in the index; `row` is its place in the file of its step, `component` as in `Rollout`."""

    step: int
    phase: str
    row: int
    id: str
    sample: str
    sample_sha: str
    source: str
    task: str
    group: str
    rank: int
    component: str
    reward: float | None
    accuracy: float | None
    correct: bool | None
    status: str
    ending: str
    length: int
    advantage: float | None
    components: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Page:
    """`total` counts the rollouts that the filters leave, the text apart; `scanned` those that this call looked at.
    `next` continues the search, None at its end. `problems` says which files could not be read, and why."""

    rows: tuple[Row, ...]
    next: str | None
    scanned: int
    total: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PassRates:
    """How hard a source's prompts are for the policy: groups by how many of their rollouts were right, as {(right, judged):
    number of groups}, and of how many different samples they are. Only what the policy itself drew counts."""

    samples: int
    groups: Mapping[tuple[int, int], int]


def pass_rates(db: sqlite3.Connection, phase: str) -> dict[str, PassRates]:
    """By source; a group of which nothing could be judged is left out."""
    drawn = (
        "FROM rollout_index AS r JOIN samples ON samples.id = r.sample WHERE phase = ? AND component IS NULL"
    )
    groups: dict[str, dict[tuple[int, int], int]] = {}
    for source, right, judged, count in db.execute(
        f"""SELECT source, "right", judged, count(*) FROM
            (SELECT source, sum(correct) AS "right", count(correct) AS judged {drawn}
             GROUP BY step, sample, coalesce("group", name))
            WHERE judged GROUP BY 1, 2, 3""",
        (phase,),
    ):
        groups.setdefault(source, {})[right, judged] = count
    samples = dict(db.execute(f"SELECT source, count(DISTINCT sample) {drawn} GROUP BY source", (phase,)))
    return {source: PassRates(samples[source], found) for source, found in sorted(groups.items())}


@dataclass(frozen=True, slots=True)
class Seen:
    """A sample as the run met it: last when, and of how many kept rollouts how many were right. `number` rises with the step at
    which it was first met."""

    number: int
    sample: str
    sample_sha: str
    source: str
    step: int
    right: int
    rollouts: int


def seen(db: sqlite3.Connection, source: str, limit: int, before: int | None) -> list[Seen]:
    """The samples of a source ('': of all), each once, the newest first; `before`: only those with a lower number."""
    rows = db.execute(
        """SELECT samples.id, name, sha, source, max(step), coalesce(sum(correct), 0), count(*)
           FROM samples JOIN rollout_index AS r ON r.sample = samples.id
           WHERE samples.id < ? AND ? IN ('', source) GROUP BY samples.id ORDER BY samples.id DESC LIMIT ?""",
        (_LARGE if before is None else before, source, limit),
    )
    return [Seen(*row) for row in rows]


def insert(db: sqlite3.Connection, step: int, phase: str, rollouts: Sequence[Rollout]) -> None:
    """Adds the rollouts of a step, in their order."""
    known: dict[tuple[str, ...], int] = {}
    rows = []
    for number, one in enumerate(rollouts):
        key = (one.sample, one.source, one.task, one.sample_sha)
        if key not in known:
            known[key] = _sample(db, key)
        rows.append((
            step, phase, number, known[key], one.rank,
            None if one.id == f"{one.sample}#{one.rank}" else one.id,
            None if one.group == one.sample else one.group,
            None if one.component == "policy" else one.component,
            one.reward, one.accuracy, one.correct, one.status, one.ending, one.response_tokens, one.advantage,
            to_json({part.name: part.value for part in one.components}, inf_nan_mode="null").decode(),
        ))  # fmt: skip
    db.executemany(f"INSERT INTO rollout_index VALUES ({', '.join('?' * 16)})", rows)


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _sample(db: sqlite3.Connection, key: tuple[str, ...]) -> int:
    where = "SELECT id FROM samples WHERE (name, source, task, sha) = (?, ?, ?, ?)"
    found = db.execute(where, key).fetchone()
    if found is None:
        made = db.execute("INSERT INTO samples (name, source, task, sha) VALUES (?, ?, ?, ?)", key)
        return int(made.lastrowid or 0)
    return int(found[0])


def complete(db: sqlite3.Connection, shards: Shards) -> None:
    """Indexes the files of an older version's run. One that cannot be read is noted, and stays out."""
    pending = db.execute("SELECT phase, step FROM shards WHERE rows IS NULL ORDER BY step, phase").fetchall()
    for phase, step in pending:
        count, problem = 0, None
        try:
            rollouts = shards.read(phase, step, from_parquet)
            insert(db, step, phase, rollouts)
            count = len(rollouts)
        except (StorageError, OSError) as error:
            problem = str(error)
        db.execute(
            "UPDATE shards SET rows = ?, problem = ? WHERE step = ? AND phase = ?",
            (count, problem, step, phase),
        )


def find(db: sqlite3.Connection, shards: Shards, query: Query) -> Page:
    """The rollouts that the query asks for. Not of one moment: pages do not need it, and a file that is replaced while it
    is searched has its new rows in the index."""
    where, values = _filters(query)
    total = int(db.execute(f"SELECT count(*) FROM rollouts WHERE {where}", values).fetchone()[0])
    problems = [text for (text,) in db.execute("SELECT problem FROM shards WHERE problem IS NOT NULL")]
    wanted, found, scanned = query.text.casefold(), list[Row](), 0
    reader = _Texts(shards, problems)
    last = query.after
    for row, cursor in _walk(db, query, where, values):
        if len(found) == query.limit or (wanted and not reader.may_open(row.phase, row.step)):
            return Page(tuple(found), last, scanned, total, tuple(problems))
        scanned, last = scanned + 1, cursor
        if not wanted or any(wanted in text for text in reader.of(row)):
            found.append(row)
    return Page(tuple(found), None, scanned, total, tuple(problems))


def _walk(db: sqlite3.Connection, query: Query, where: str, values: list[Any]) -> Iterator[tuple[Row, str]]:
    """Rows in order from `query.after`, each with the cursor that stands behind it."""
    keys = _keys(query.order)
    ordering = ", ".join(f"{key} {'DESC' if falling else 'ASC'}" for key, falling in keys)
    columns = [column.name for column in fields(Row)]
    names = ", ".join(f'"{name}"' for name in columns)
    marks = ", ".join(key for key, _ in keys)
    cursor = query.after
    batch = _BATCH if query.text else query.limit + 1
    while True:
        beyond, start = _beyond(keys, cursor) if cursor is not None else ("1", [])
        rows = db.execute(
            f"SELECT {names}, {marks} FROM rollouts WHERE {where} AND {beyond} ORDER BY {ordering} LIMIT {batch}",
            [*values, *start],
        ).fetchall()
        for row in rows:
            cursor = _JSON.encode(row[len(columns) :])
            yield _row(dict(zip(columns, row[: len(columns)], strict=True))), cursor
        if len(rows) < batch:
            return


def _row(columns: dict[str, Any]) -> Row:
    correct = columns["correct"]
    columns["correct"] = None if correct is None else bool(correct)
    columns["components"] = json.loads(columns["components"])
    return Row(**columns)


def _keys(order: Order) -> list[tuple[str, bool]]:
    """What rows are sorted by: expressions, and whether each falls. The last three tell any two rows apart."""
    column, falling = order.removeprefix("-"), order.startswith("-")
    if column == "step":
        return [("step", falling), ("phase", False), ("row", False)]
    return [
        (f"{column} IS NULL", False), (column, falling), ("step", False), ("phase", False), ("row", False)
    ]  # fmt: skip


def _beyond(keys: Sequence[tuple[str, bool]], cursor: str) -> tuple[str, list[Any]]:
    """The condition of rows that come after a cursor: equal in some first keys, beyond it in the next."""
    try:
        at = json.loads(cursor)
        if not isinstance(at, list) or len(at) != len(keys) or not all(map(_plain, at)):
            raise ValueError
    except ValueError:
        raise ValueError(f"not the `next` of a page in this order: {cursor!r}") from None
    parts: list[str] = []
    values: list[Any] = []
    for place, (key, falling) in enumerate(keys):
        equal = "".join(f"({name}) IS ? AND " for name, _ in keys[:place])
        parts.append(f"({equal}({key}) {'<' if falling else '>'} ?)")
        values += at[: place + 1]
    condition = f"({' OR '.join(parts)})"
    if keys[0][0] == "step":  # said once more, in the form in which the table is sorted
        return f"step {'<=' if keys[0][1] else '>='} ? AND {condition}", [at[0], *values]
    return condition, values


def _plain(value: object) -> bool:
    """Whether SQLite takes it."""
    return value is None or isinstance(value, float | str) or (isinstance(value, int) and abs(value) < _LARGE)


def _filters(query: Query) -> tuple[str, list[Any]]:
    parts: list[str] = ["1"]
    values: list[Any] = []

    def add(condition: str, *given: Any) -> None:
        parts.append(condition)
        values.extend(given)

    if query.phase is not None:
        add("phase = ?", query.phase)
    if query.correct is not None:
        add("correct = ?", query.correct)
    for column, choice in (
        ("source", query.sources), ("task", query.tasks), ("sample", query.samples), ('"group"', query.groups),
        ("status", query.statuses), ("ending", query.endings),
    ):  # fmt: skip
        if choice:
            add(f"{column} IN ({', '.join('?' * len(choice))})", *choice)
    for column, bounds in (("step", query.steps), ("reward", query.reward), ("length", query.length)):
        for sign, bound in zip((">=", "<="), bounds, strict=True):
            if bound is not None:
                add(f"{column} {sign} ?", max(-_LARGE, min(_LARGE, bound)))
    for name, bounds in query.components.items():
        for sign, bound in zip((">=", "<="), bounds, strict=True):
            if bound is not None:
                add(f"(SELECT value FROM json_each(components) WHERE key = ?) {sign} ?", name, bound)
    return " AND ".join(parts), values


class _Texts:
    """Prompts and responses of shards, the last few kept; a shard that cannot be read is a problem, once."""

    def __init__(self, shards: Shards, problems: list[str]) -> None:
        self._shards, self._problems = shards, problems
        self._open: dict[tuple[str, int], list[tuple[str, str]]] = {}
        self._opened = 0

    def may_open(self, phase: str, step: int) -> bool:
        return (phase, step) in self._open or self._opened < SHARDS_PER_CALL

    def of(self, row: Row) -> tuple[str, ...]:
        key = (row.phase, row.step)
        if key not in self._open:
            self._opened += 1
            try:
                said = [(a.casefold(), b.casefold()) for a, b in self._shards.read(*key, texts)]
            except StorageError as error:
                self._problems.append(str(error))
                said = []
            self._open[key] = said
        said = self._open[key]
        return said[row.row] if row.row < len(said) else ()
