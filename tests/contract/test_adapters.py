"""What every data adapter must do with the rows it ships as examples, whole and damaged. New adapters need no change here."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from triune.core.errors import DataError, MediaMismatch
from triune.core.sample import Picture, Sample
from triune.data import parquet
from triune.data.adapters import ADAPTERS
from triune.data.rows import Row
from triune.data.source import TableSource
from triune.verify.verifier import verifiers

CASES = [(kind, i) for kind in ADAPTERS for i in range(len(ADAPTERS[kind].examples))]
pytestmark = pytest.mark.parametrize(("kind", "example"), CASES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (32, 16), "red").save(tmp_path / "picture.png")
    return tmp_path


def convert(kind: str, values: dict[str, Any], folder: Path, split: str = "train") -> Sample:
    row = Row(values, folder / "counting_toy_2.jsonl", 17, folder, "toy", split)  # type: ignore[arg-type]
    return ADAPTERS[kind](kind=kind).sample(row)


def values_of(kind: str, example: int) -> dict[str, Any]:
    return copy.deepcopy(dict(ADAPTERS[kind].examples[example]))


def test_every_adapter_ships_examples(kind: str, example: int) -> None:
    assert {name for name, _ in CASES} == set(ADAPTERS)


def test_an_example_becomes_a_sample_that_can_be_judged_and_stored(
    kind: str, example: int, folder: Path
) -> None:
    sample = convert(kind, values_of(kind, example), folder)
    assert sample.media[0].size == (32, 16)
    assert sample.media[0].image().getpixel((0, 0)) == (255, 0, 0)
    assert sample.truth is not None
    for check in sample.checks:
        assert check.verifier in verifiers
        verifiers[check.verifier].Params.model_validate(check.params)
    assert convert(kind, values_of(kind, example), folder) == sample
    parquet.write(folder / "rows.parquet", [sample], Sample)
    assert parquet.read(folder / "rows.parquet", Sample) == [sample]


def test_no_image_placeholder_stays_in_the_text(kind: str, example: int, folder: Path) -> None:
    sample = convert(kind, values_of(kind, example), folder)
    assert not any("<image>" in message.text for message in sample.messages)
    assert sum(isinstance(b, Picture) for m in sample.messages for b in m.content) == 1


def test_a_missing_picture_names_file_row_and_picture(kind: str, example: int, folder: Path) -> None:
    (folder / "picture.png").unlink()
    with pytest.raises(DataError, match=r"counting_toy_2.jsonl, row 17: .*picture.png") as caught:
        convert(kind, values_of(kind, example), folder)
    assert caught.value.reason == "missing_media"  # type: ignore[attr-defined]


def test_a_broken_picture_names_file_row_and_picture(kind: str, example: int, folder: Path) -> None:
    (folder / "picture.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DataError, match=r"row 17: .*picture.png") as caught:
        convert(kind, values_of(kind, example), folder)
    assert caught.value.reason == "broken_media"  # type: ignore[attr-defined]


def test_every_picture_is_shown_once_or_the_row_is_refused(kind: str, example: int, folder: Path) -> None:
    values = values_of(kind, example)
    key = next((k for k in ("images", "image", "media") if k in values), None)
    if key is None:
        return  # pictures sit in the conversation itself, so they cannot disagree with it
    many = values[key] if isinstance(values[key], list) else [values[key]]
    values[key] = many * 2
    refusal = None
    try:
        sample = convert(kind, values, folder)
    except DataError as error:
        refusal = error
    if refusal is None:  # a format that does not say where pictures go
        assert [b.media for m in sample.messages for b in m.content if isinstance(b, Picture)] == [0, 1]
    else:
        assert "row 17" in str(refusal)
        assert isinstance(refusal, MediaMismatch) or "must be shown exactly once" in str(refusal)


@pytest.mark.parametrize("way", ["parent", "absolute", "link"])
def test_a_picture_outside_the_data_folder_is_refused_unless_it_is_allowed(
    kind: str, example: int, way: str, folder: Path
) -> None:
    (inside := folder / "inside").mkdir()
    outside = (folder / "picture.png").rename(folder / "elsewhere.png")
    (inside / "link.png").symlink_to(outside)
    named = {"parent": "../elsewhere.png", "absolute": str(outside), "link": "link.png"}[way]
    values = renamed(values_of(kind, example), named)
    with pytest.raises(DataError, match=r"row 17: .*leads out of the data folder.*allow_outside") as caught:
        convert(kind, values, inside)
    assert caught.value.reason == "outside_folder"  # type: ignore[attr-defined]
    row = Row(values, inside / "counting_toy_2.jsonl", 17, inside, "toy", outside=True)
    assert ADAPTERS[kind](kind=kind, allow_outside=True).sample(row).media[0].size == (32, 16)


def test_its_own_rows_are_recognised_and_others_are_told_about_it(
    kind: str, example: int, folder: Path
) -> None:
    row = Row(values_of(kind, example), folder / "rows.jsonl", 0, folder)
    ADAPTERS[kind](kind=kind).recognise(row)
    told = []
    for other in set(ADAPTERS) - {kind}:
        try:
            ADAPTERS[other](kind=other).recognise(row)
        except DataError as error:
            told.append(str(error))
    assert told
    for text in told:
        assert re.search(rf"rows.jsonl, row 0: .*the columns are .*set adapter: .*{kind}", text)
    with pytest.raises(
        DataError, match=r"row 0: .*It wants .*the columns are colour, size: .* missing. No adapter"
    ):
        ADAPTERS[kind](kind=kind).recognise(replace(row, values={"colour": "red", "size": 3}))


def test_rows_are_the_same_in_parquet_and_in_json(kind: str, example: int, folder: Path) -> None:
    values = values_of(kind, example)
    (folder / "json.jsonl").write_text(json.dumps(values) + "\n")
    samples = [TableSource(str(folder / "json.jsonl"), kind, name="x")]
    if kind != "triune":  # whose Parquet is written by triune itself
        # A row without anything optional beside it: Arrow fills in what it lacks with nulls.
        pq.write_table(pa.Table.from_pylist([values, {}]).slice(0, 1), folder / "json.parquet")
        samples.append(TableSource(str(folder / "json.parquet"), kind, name="x"))
    assert len({source.sample(0).model_dump_json() for source in samples}) == 1


def test_a_file_holds_one_adapter(kind: str, example: int) -> None:
    modules = [ADAPTERS[name].__module__ for name in ADAPTERS]
    assert len(set(modules)) == len(modules)


@pytest.mark.parametrize("junk", [None, 3.5, True, "x", [1], {"a": 1}, [], {}, b"\x00"])
def test_damage_anywhere_is_a_data_error_or_harmless(
    kind: str, example: int, junk: Any, folder: Path
) -> None:
    for path in paths(values_of(kind, example)):
        for remove in (False, True):
            values = values_of(kind, example)
            node: Any = values
            for part in path[:-1]:
                node = node[part]
            if not remove:
                node[path[-1]] = junk
            elif isinstance(node, dict):
                del node[path[-1]]
            with contextlib.suppress(DataError):  # anything else escapes and fails
                assert isinstance(convert(kind, values, folder), Sample)


def renamed(value: Any, name: str) -> Any:
    """The same values with another name for the picture."""
    if isinstance(value, dict):
        return {key: renamed(inner, name) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, name) for inner in value]
    return name if value == "picture.png" else value


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*prefix, key)
        yield from paths(inner, (*prefix, key))
