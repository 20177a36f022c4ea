"""Lists of frozen types (Sample, Trajectory, Verdict, ...) to Parquet and back, exactly.

One row an object, one column a field: scalars and bytes are native columns that any tool can filter on, nested
fields are JSON strings. The schema's metadata names the type and the format's version, so that a file is never
read as something else. Bytes inside nested fields are base64; zstd gives back what that costs.
"""

from __future__ import annotations

import base64
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from triune.core.base import Frozen
from triune.core.errors import DataError
from triune.data.files import atomic

FORMAT_VERSION = 1
ROWS_PER_GROUP = 1024

M = TypeVar("M", bound=Frozen)

_NATIVE = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64(), bytes: pa.binary()}


def write(path: Path, rows: Sequence[M], model: type[M]) -> None:
    """Writes `rows` atomically. Raises StorageError when the file cannot be written (full disk, permission)."""
    columns = {name: _native(field.annotation) for name, field in model.model_fields.items()}
    for name, native in columns.items():
        if native == pa.int64() and any(not _fits(getattr(row, name)) for row in rows):
            columns[name] = None  # a seed of 64 unsigned bits, say: JSON has no limit
    schema = pa.schema(
        [(name, native or pa.string()) for name, native in columns.items()],
        metadata={"triune.type": model.__name__, "triune.format": str(FORMAT_VERSION)},
    )
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(rows), ROWS_PER_GROUP):
            chunk = rows[start : start + ROWS_PER_GROUP]
            cells = [
                pa.array(
                    [getattr(row, name) if native else _json(row, name) for row in chunk],
                    native or pa.string(),
                )
                for name, native in columns.items()
            ]
            writer.write_table(pa.table(cells, schema=schema))


def read(path: Path, model: type[M]) -> list[M]:
    """All rows of a file written by `write`. Raises DataError naming the file (and row) when it is missing, of
    another type, of a newer format, or damaged."""
    check_type(path, model)
    return [decode(model, row, f"{path}, row {number}") for number, row in enumerate(rows(path))]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The raw rows of any Parquet file, one dict a row. Raises DataError when it cannot be read."""
    number = 0
    try:
        # Buffered and few at a time: pictures are large, and a row group may be as large as the file.
        options = {"buffer_size": 1 << 20, "pre_buffer": False, "page_checksum_verification": True}
        with pq.ParquetFile(path, **options) as file:
            for batch in file.iter_batches(batch_size=16, use_threads=False):
                for row in batch.to_pylist():
                    yield row
                    number += 1
    except (OSError, ValueError, pa.ArrowException) as error:
        place = f"{path}, row {number} or later:" if number else str(path)
        raise DataError(
            f"{place} cannot be read as Parquet: {str(error).strip() or type(error).__name__}; the file is damaged or cut "
            "short: copy or download it again"
        ) from error


def check_type(path: Path, model: type[Frozen]) -> None:
    """Raises DataError unless the file's metadata says that it holds this type, in a format this version reads."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    held, version = metadata.get(b"triune.type", b"").decode(), int(metadata.get(b"triune.format", b"0"))
    if held != model.__name__:
        what = f"holds {held} objects" if held else "was not written by triune"
        raise DataError(f"{path} {what}, expected {model.__name__}; foreign rows are read through an adapter")
    if version > FORMAT_VERSION:
        raise DataError(
            f"{path} has format {version}, this version reads up to {FORMAT_VERSION}; update triune"
        )


def decode(model: type[M], row: Mapping[str, Any], where: str) -> M:
    """One object from one row's columns; `where` names the row in the DataError of a bad one.

    A column that the file lacks takes the field's default, so that old files outlive new fields.
    """
    parts = []
    for name, field in model.model_fields.items():
        if name in row:
            value = row[name]
            if isinstance(value, bytes):
                value = base64.b64encode(value).decode()
            native = _native(field.annotation)
            stored_as_json = native is None or (native == pa.int64() and isinstance(value, str))
            raw = value if stored_as_json and value is not None else json.dumps(value)
            parts.append(f'"{name}":{raw}')
    try:
        return model.model_validate_json("{" + ",".join(parts) + "}")
    except ValidationError as error:
        raise DataError(f"{where}: not a valid {model.__name__}: {_first(error)}") from error


def _fits(value: int | None) -> bool:
    return value is None or -(2**63) <= value < 2**63


def _json(row: Frozen, name: str) -> str:
    return row.model_dump_json(include={name})[len(name) + 4 : -1]


def _native(annotation: Any) -> pa.DataType | None:
    """The column type of a scalar (or optional scalar) annotation; None for what is stored as JSON."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = {_native(kind) for kind in get_args(annotation) if kind is not type(None)}
        return kinds.pop() if len(kinds) == 1 else None
    if get_origin(annotation) is Literal:
        return pa.string() if all(isinstance(value, str) for value in get_args(annotation)) else None
    return _NATIVE.get(annotation) if isinstance(annotation, type) else None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}"
