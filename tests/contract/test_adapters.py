"""What every data adapter must do with the rows it ships as examples, whole and damaged. New adapters need no change here."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from triune.core.errors import DataError, MediaMismatch
from triune.core.sample import Picture, Sample
from triune.data import parquet
from triune.data.adapters import ADAPTERS
from triune.data.rows import Row
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


def test_more_pictures_than_places_are_refused(kind: str, example: int, folder: Path) -> None:
    values = values_of(kind, example)
    key = next((k for k in ("images", "image", "media") if k in values), None)
    if key is None:
        return  # pictures sit in the conversation itself, so they cannot disagree with it
    many = values[key] if isinstance(values[key], list) else [values[key]]
    values[key] = many * 2
    with pytest.raises(DataError, match="row 17") as caught:
        convert(kind, values, folder)
    assert isinstance(caught.value, MediaMismatch) or "must be shown exactly once" in str(caught.value)


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


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*prefix, key)
        yield from paths(inner, (*prefix, key))
