"""A judged rollout as a row on disk: what was asked, what came back, what it was worth and why.

One Parquet file holds the rollouts of one step of one phase. Nested facts (truth, components, tool calls, pictures
as seen) are JSON columns, so that any reader of Parquet can open the file; token-level columns are lists of numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from triune.core.errors import StorageError
from triune.core.sample import Frame, Sample, Text
from triune.core.verdict import Call, Component, RewardEvent, Seen
from triune.monitor import samples
from triune.monitor.metric import Scored

Advantage = float | NDArray[np.float32]
"""Of a rollout as a whole, or f32[N] of each of its decisions where these differ."""

_CODECS: dict[str, TypeAdapter[Any]] = {
    "seed": TypeAdapter(int),  # may exceed 64 bits
    "truth": TypeAdapter(JsonValue),
    "components": TypeAdapter(tuple[Component, ...]),
    "calls": TypeAdapter(tuple[Call, ...]),
    "seen": TypeAdapter(tuple[Seen, ...]),
    "events": TypeAdapter(tuple[RewardEvent, ...]),
}
"""The columns that are JSON, and what they parse into."""

_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("phase", pa.string()),
        ("id", pa.string()),
        ("sample", pa.string()),
        ("source", pa.string()),
        ("task", pa.string()),
        ("group", pa.string()),
        ("component", pa.string()),
        ("rank", pa.int32()),
        ("seed", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("truth", pa.string()),
        ("truth_frame", pa.string()),
        ("answer_frame", pa.string()),
        ("reward", pa.float64()),
        ("correct", pa.bool_()),
        ("status", pa.string()),
        ("components", pa.string()),
        ("ending", pa.string()),
        ("truncated", pa.bool_()),
        ("turns", pa.int32()),
        ("calls", pa.string()),
        ("advantage", pa.float64()),
        ("prompt_tokens", pa.int32()),
        ("response_tokens", pa.int32()),
        ("media", pa.list_(pa.string())),
        ("seen", pa.string()),
        ("version_min", pa.int32()),
        ("version_max", pa.int32()),
        ("in_loss", pa.bool_()),
        ("in_baseline", pa.bool_()),
        ("reason", pa.string()),
        ("judge_seconds", pa.float64()),
        ("logp", pa.list_(pa.float32())),
        ("ids", pa.list_(pa.int32())),
        ("origin", pa.list_(pa.int32())),
        ("sample_sha", pa.string()),
        ("events", pa.string()),
        ("token_advantage", pa.list_(pa.float32())),
    ]
)

_BEFORE: dict[str, Any] = {"component": "policy", "sample_sha": "", "events": (), "token_advantage": None}
"""What rows hold in columns that files of older versions lack."""


@dataclass(slots=True, eq=False)  # hundreds are made in a step, and freezing one doubles what it costs
class Rollout:
    """One row. `media` and `seen` name pictures by the hash of their bytes (see `Store.media`).

    `component` names the terms that train it, `policy` for what the policy drew. `truth_frame` and `answer_frame` are the
    coordinate frames of boxes in the truth and in the response.
    `version_min..version_max` are the policy versions that drew it (-1 if nothing was drawn). `logp` f32[N] is the
    behaviour log-prob per decision, NaN where forced; `ids` and `origin` i32[T] are the family's tokens and where
    each came from, None for a family without tokens. `advantage` is None where none was formed, and the mean over the
    sampled decisions where `token_advantage` f32[N] tells them apart. `sample_sha` names the whole sample (see
    `Store.sample`), '' where it was not kept; `events` are what an environment gave.
    """

    step: int
    phase: str
    id: str
    sample: str
    source: str
    task: str
    group: str
    component: str
    rank: int
    seed: int
    prompt: str
    response: str
    truth: JsonValue
    truth_frame: Frame
    answer_frame: Frame
    reward: float | None
    correct: bool | None
    status: str
    components: tuple[Component, ...]
    ending: str
    truncated: bool
    turns: int
    calls: tuple[Call, ...]
    advantage: float | None
    prompt_tokens: int | None
    response_tokens: int
    media: tuple[str, ...]
    seen: tuple[Seen, ...]
    version_min: int
    version_max: int
    in_loss: bool
    in_baseline: bool
    reason: str
    judge_seconds: float
    logp: NDArray[np.float32]
    ids: NDArray[np.int32] | None
    origin: NDArray[np.int32] | None
    sample_sha: str = ""
    events: tuple[RewardEvent, ...] = ()
    token_advantage: NDArray[np.float32] | None = None

    @property
    def accuracy(self) -> float | None:
        """The value of the main check; None if it could not be judged."""
        return (
            max(self.components, key=lambda part: (part.main, part.weight)).value if self.components else None
        )

    @classmethod
    def of(cls, step: int, phase: str, scored: Scored, advantage: Advantage | None = None) -> Rollout:
        """One rollout as it is kept."""
        return cls.all_of(step, phase, [scored], [advantage])[0]

    @classmethod
    def all_of(
        cls, step: int, phase: str, scored: Sequence[Scored], advantages: Sequence[Advantage | None]
    ) -> list[Rollout]:
        """Those of a step, in their order; what the rollouts of a group have from their sample is made once."""
        known: dict[int, tuple[str, tuple[str, ...], str]] = {}
        rows = []
        for one, advantage in zip(scored, advantages, strict=True):
            sample, trajectory, outcome, verdict = one.sample, one.trajectory, one.outcome, one.verdict
            decisions, arrays = trajectory.decisions, trajectory.payload.arrays
            shared = known.get(id(sample))
            if shared is None:
                media = tuple(medium.sha256 for medium in sample.media)
                shared = known[id(sample)] = (prompt_text(sample), media, samples.sha(sample))
            prompt, media, sha = shared
            by_token = None
            if isinstance(advantage, np.ndarray):
                by_token, advantage = advantage, _mean(advantage, ~decisions.forced)
            version, drawn = decisions.version, len(decisions) > 0
            rows.append(
                cls(
                    step=step,
                    phase=phase,
                    id=trajectory.id,
                    sample=sample.id,
                    source=sample.source,
                    task=sample.task,
                    group=trajectory.group,
                    component=trajectory.component,
                    rank=trajectory.rank,
                    seed=trajectory.seed,
                    prompt=prompt,
                    response=outcome.text,
                    truth=sample.truth,
                    truth_frame=sample.frame,
                    answer_frame=outcome.frame,
                    reward=verdict.reward,
                    correct=verdict.correct,
                    status=verdict.status,
                    components=verdict.components,
                    ending=outcome.ending,
                    truncated=outcome.truncated,
                    turns=outcome.num_turns,
                    calls=outcome.calls,
                    advantage=advantage,
                    prompt_tokens=one.prompt_tokens,
                    response_tokens=outcome.num_tokens,
                    media=media,
                    seen=outcome.media,
                    version_min=int(np.minimum.reduce(version)) if drawn else -1,
                    version_max=int(np.maximum.reduce(version)) if drawn else -1,
                    in_loss=one.in_loss,
                    in_baseline=one.in_baseline,
                    reason=one.reason,
                    judge_seconds=verdict.elapsed,
                    logp=decisions.logp,
                    ids=_tokens(arrays.get("ids")),
                    origin=_tokens(arrays.get("origin")),
                    sample_sha=sha,
                    events=outcome.events,
                    token_advantage=by_token,
                )
            )
        return rows


def prompt_text(sample: Sample) -> str:
    """The conversation as text, media as `<image>` or `<video>`; roles are named when there is more than one turn."""
    turns = []
    for message in sample.messages:
        text = "".join(b.text if isinstance(b, Text) else f"<{b.type}>" for b in message.content)
        turns.append(text if len(sample.messages) == 1 else f"{message.role}: {text}")
    return "\n\n".join(turns)


def to_parquet(rollouts: Sequence[Rollout]) -> bytes:
    """The encoded file."""
    names = _SCHEMA.names
    columns = dict(zip(names, zip(*map(attrgetter(*names), rollouts), strict=True), strict=True))
    for name, codec in _CODECS.items():
        columns[name] = _encoded(codec, columns[name]) if name != "seed" else list(map(str, columns[name]))
    arrays = [_array(columns[field.name], field.type) for field in _SCHEMA]
    buffer = pa.BufferOutputStream()
    # A shard is one small page per column: what helps to skip or to share parts of large files would be most of it.
    pq.write_table(
        pa.table(arrays, schema=_SCHEMA),
        buffer,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
    encoded: bytes = buffer.getvalue().to_pybytes()
    return encoded


def _encoded(codec: TypeAdapter[Any], values: Sequence[Any]) -> list[str]:
    """As JSON; what the rollouts of a group have from their sample is encoded once."""
    known: dict[int, str] = {}
    for value in values:
        if id(value) not in known:
            known[id(value)] = "[]" if value == () else _json(codec, value)
    return [known[id(value)] for value in values]


def _json(codec: TypeAdapter[Any], value: Any) -> str:
    try:
        return codec.serializer.to_json(value).decode()
    except PydanticSerializationError:
        return _legal(json.dumps(codec.dump_python(value, mode="json"), ensure_ascii=False))


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, type=kind)
    except UnicodeEncodeError:
        return pa.array([_legal(value) for value in values], type=kind)


def _legal(text: str) -> str:
    """Without lone surrogates, which a model may write as an escape in a tool call and UTF-8 cannot: `?` in their place."""
    return text.encode(errors="replace").decode()


def from_parquet(path: Path) -> list[Rollout]:
    """The rows of one file, in the order in which they were logged; raises StorageError if it is damaged."""
    table = _read(path)
    try:
        return _rows(table)
    except (pa.ArrowException, ValidationError, LookupError, ValueError, TypeError) as error:
        raise StorageError(f"{path}: damaged: {type(error).__name__}: {error}") from error


def _rows(table: pa.Table) -> list[Rollout]:
    columns: dict[str, Sequence[Any]] = {}
    for field in _SCHEMA:
        if field.name in _BEFORE and field.name not in table.column_names:
            columns[field.name] = [_BEFORE[field.name]] * table.num_rows
            continue
        column = table.column(field.name)
        if field.name in ("logp", "ids", "origin", "token_advantage"):
            columns[field.name] = column.to_numpy()  # one array per row
        elif field.name == "media":
            columns[field.name] = [tuple(value) for value in column.to_pylist()]
        elif field.name in _CODECS:
            columns[field.name] = [_CODECS[field.name].validate_json(value) for value in column.to_pylist()]
        else:
            columns[field.name] = column.to_pylist()
    names = [field.name for field in fields(Rollout)]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [Rollout(**dict(zip(names, row, strict=True))) for row in rows]


def texts(path: Path) -> list[tuple[str, str]]:
    """Prompt and response of the rows of one file; raises StorageError if it is damaged."""
    table = _read(path, ["prompt", "response"])
    try:
        return list(
            zip(table.column("prompt").to_pylist(), table.column("response").to_pylist(), strict=True)
        )
    except (LookupError, ValueError) as error:
        raise StorageError(f"{path}: damaged: {type(error).__name__}: {error}") from error


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(f"{path}: half-written or damaged: {error}") from error


def _mean(values: NDArray[np.float32], chosen: NDArray[np.bool_]) -> float:
    """Over the chosen ones, 0 if there is none: as advantages of whole rollouts are formed."""
    return float(values[chosen].mean()) if chosen.any() else 0.0


def _tokens(array: NDArray[Any] | None) -> NDArray[np.int32] | None:
    return None if array is None else np.asarray(array, dtype=np.int32).reshape(-1)
