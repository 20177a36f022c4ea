"""Where rows come from: Parquet, JSON Lines, JSON and CSV files, Hugging Face data sets, rows that Python hands over.

What a row looks like is the adapter's business (`triune.data.adapters`); any adapter reads rows from any of these.
"""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triune.core.errors import DataError, nearest
from triune.data import parquet

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
LARGE = 64 << 20
"""Bytes of a file above which its pictures do not stay in memory but go to the cache folder."""

Rows = Iterable[Mapping[str, Any]]
"""Rows in Python: a Hugging Face `Dataset`, or a list of dicts."""

SHARED = "python:"
HUB = "hf:"
PATHS_START = "paths start at data.root, and that at the folder that triune runs in"
_shared: dict[str, Rows] = {}


@dataclass(frozen=True)
class Table:
    """The rows of one place. `file` is how errors name it, `folder` where relative picture paths start, `prefix` what the
    ids of rows without one begin with; `large` says that its pictures should not stay in memory."""

    file: Path
    folder: Path
    prefix: str
    rows: Callable[[], Iterator[Mapping[str, Any]]]
    large: bool = False


def share(name: str, rows: Rows) -> str:
    """Makes rows known under `python:NAME`, which a recipe's `path` may then name, in this process.

    A run on shared rows can be resumed or judged again only where they are shared again under the same name.
    """
    _shared[name] = rows
    return SHARED + name


def at(root: Path, location: str) -> str:
    """A source's `path` below `data.root`; what is no path on disk stays as it is."""
    return location if location.startswith((SHARED, HUB)) else str(root / location)


def absent(location: str) -> bool:
    """Whether a location is a file or a glob, and matches nothing."""
    folder = Path(location.rpartition("@")[0] or location)
    return not (location.startswith((SHARED, HUB)) or folder.is_dir() or glob.glob(location, recursive=True))


def tables(location: str | Rows) -> list[Table]:
    """What a source's `path` stands for: a file or a glob; a folder of a Hugging Face data set, `FOLDER@SPLIT`;
    `hf:NAME@SPLIT` or `hf:NAME:CONFIG@SPLIT`; `python:NAME`; or the rows themselves. Raises DataError for nothing."""
    if not isinstance(location, str):
        return [_given("rows", location)]
    if location.startswith(SHARED):
        name = location.removeprefix(SHARED)
        if name not in _shared:
            raise DataError(
                f"no rows are shared as {location!r} in this process ({nearest(name, _shared)}); call "
                f"triune.data.reading.share({name!r}, rows) first, or save them as Parquet and name the file"
            )
        return [_given(name, _shared[name])]
    folder = Path(location.rpartition("@")[0] or location)
    if location.startswith(HUB) or (folder.is_dir() and not Path(location).is_file()):
        from triune.data import huggingface

        return [_given(location, huggingface.open_dataset(location), folder)]
    files = [Path(file) for file in sorted(glob.glob(location, recursive=True))]
    if not files:
        raise DataError(f"no file matches {location!r}; {PATHS_START}")
    names = [file.stem for file in files]
    return [
        Table(
            file,
            file.parent,
            name if names.count(name) == 1 else f"{file.parent.name}/{name}",
            lambda file=file: read_rows(file),  # type: ignore[misc]
            large=file.stat().st_size > LARGE,
        )
        for file, name in zip(files, names, strict=True)
    ]


def _given(name: str, rows: Rows, folder: Path | None = None) -> Table:
    """Rows that are already open; a Hugging Face data set's pictures are not decoded on the way."""
    local = folder if folder is not None and folder.is_dir() else Path()
    prefix = name.removeprefix(HUB).rstrip("/").replace("\\", "/").split("/")[-1]
    if hasattr(rows, "features"):
        from triune.data import huggingface

        large = huggingface.size(rows) > LARGE
        return Table(Path(name), local, prefix, lambda: huggingface.rows(rows, name), large)
    return Table(Path(name), local, prefix, lambda: iter(rows))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet, JSON Lines, JSON (list), CSV or TSV file, as dicts. Raises DataError naming file and line."""
    suffix = path.suffix.lower()
    readers = {
        ".parquet": parquet.rows,
        ".jsonl": _json_lines,
        ".json": _json_list,
        ".csv": _csv,
        ".tsv": _csv,
    }
    if suffix not in readers:
        raise DataError(f"{path}: unknown file type {suffix!r}; use one of {', '.join(SUFFIXES)}")
    try:
        for number, row in enumerate(readers[suffix](path)):
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {number}: must be an object, got {repr(row)[:60]}")
            yield row
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _json_list(path: Path) -> Iterator[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: a .json data file must hold a list of objects; use .jsonl for one object a line"
        )
    return iter(rows)


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}, line {number}: not JSON: {error.msg}") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    """Cells are strings, empty ones null: what they should be, the adapter knows and the file does not."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if len(set(header)) != len(header) or not all(header):
                raise DataError(f"{path}: the first line must name every column, each once; it has {header}")
            for number, cells in enumerate(line for line in reader if line):
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}, row {number} (line {reader.line_num}): {len(cells)} cells where the first line names "
                        f"{len(header)} columns; quote cells that hold a separator"
                    )
                yield {name: cell.strip() or None for name, cell in zip(header, cells, strict=True)}
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
