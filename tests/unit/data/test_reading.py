"""Where rows come from: Hugging Face data sets, rows in Python, large files."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from triune.core.errors import DataError
from triune.core.recipe import DataSpec
from triune.core.sample import Sample
from triune.data import reading
from triune.data.adapters import ADAPTERS, Adapter
from triune.data.columns import NamedColumns
from triune.data.reading import share
from triune.data.rows import Row
from triune.data.source import TableSource, open_sources

datasets = pytest.importorskip("datasets")


def noise(seed: int, side: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three rows; pictures given as PIL, bytes and path, a class label, boxes as detection sets have them."""
    path = tmp_path_factory.mktemp("files") / "2.png"
    noise(2).save(path)
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features(
        {
            "image": datasets.Image(), "question": datasets.Value("string"), "answer": names,
            "objects": datasets.Features({
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(datasets.Value("string")),
            }),
        }
    )  # fmt: skip
    return datasets.Dataset.from_dict(
        {
            "image": [noise(0), {"bytes": encoded(noise(1)), "path": None}, str(path)],
            "question": ["What is it?"] * 3,
            "answer": [0, 1, 1],
            "objects": [{"bbox": [[1, 2, 3, 4]], "category": ["ear"]}] * 3,
        },
        features=features,
    )


def read(path: Any, adapter: str = "hf", **options: Any) -> list[Sample]:
    options = {"allow_outside": True} | options
    source = TableSource(
        path if not isinstance(path, Path) else str(path), ADAPTERS[adapter](kind=adapter, **options)
    )
    return [source.sample(i) for i in range(source.num_samples)]


def check(samples: list[Sample], *order: int) -> None:
    order = order or (0, 1, 2)
    assert [s.truth for s in samples] == [[["cat", "dog", "dog"][i]] for i in order]
    for sample, i in zip(samples, order, strict=True):
        assert sample.media[0].image().tobytes() == noise(i).tobytes()


def test_a_data_set_in_python(dataset: Any) -> None:
    check(read(dataset, answers="text"))
    check(read(dataset.select([2, 0]), answers="text"), 2, 0)
    (boxes, *_) = read(dataset, answers="boxes", boxes=["objects"], box_format="xywh")
    assert boxes.truth == {"boxes": [[1, 2, 4, 6]], "labels": ["ear"]}


def test_a_data_set_on_disk_and_its_splits(dataset: Any, tmp_path: Path) -> None:
    dataset.save_to_disk(tmp_path / "one")
    check(read(tmp_path / "one", answers="text"))
    datasets.DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk(tmp_path / "two")
    check(read(f"{tmp_path / 'two'}@test", answers="text"), 1)
    with pytest.raises(DataError, match=r"say which split, as in .*@train; it has \['train', 'test'\]"):
        read(tmp_path / "two", answers="text")
    with pytest.raises(DataError, match="has no splits"):
        read(f"{tmp_path / 'one'}@test", answers="text")


def test_a_folder_of_data_files_as_on_the_hub(dataset: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "repo" / "data").mkdir(parents=True)
    dataset.to_parquet(tmp_path / "repo" / "data" / "train-00000-of-00001.parquet")
    check(read(f"{tmp_path / 'repo'}@train", answers="text"))


def test_a_name_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(
        DataError, match=r"hf:nobody/nothing@train cannot be opened as a Hugging Face data set"
    ):
        read("hf:nobody/nothing@train")


def test_a_stream_is_refused(dataset: Any) -> None:
    with pytest.raises(
        DataError, match=r"rows is a IterableDataset; give one split of a data set that has a length"
    ):
        read(dataset.to_iterable_dataset())


def test_parquet_written_by_a_data_set_keeps_its_pictures(dataset: Any, tmp_path: Path) -> None:
    dataset.remove_columns(["answer", "objects"]).add_column("answer", ["cat", "dog", "dog"]).to_parquet(
        tmp_path / "x.parquet"
    )
    check(read(tmp_path / "x.parquet", answers="text"))


def test_shared_rows_go_through_a_recipe(dataset: Any) -> None:
    adapter = {"kind": "hf", "answers": "text", "allow_outside": True}
    spec = {"name": "mine", "path": share("mine", dataset), "adapter": adapter}
    ((source, _),) = open_sources(DataSpec.model_validate({"sources": [spec]}), 0, "train")
    check([source.sample(i) for i in range(3)])
    with pytest.raises(
        DataError, match=r"no rows are shared as 'python:yours'.*did you mean|call triune.data.reading.share"
    ):
        TableSource("python:yours", "hf")


def test_pictures_of_large_files_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGE", 1000)
    monkeypatch.setenv("TRIUNE_CACHE", str(tmp_path / "cache"))
    rows = [
        {"image": {"bytes": encoded(noise(i, 40)), "path": None}, "question": "What?", "answer": "1"}
        for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "large.parquet")
    samples = read(tmp_path / "large.parquet")
    assert all(s.media[0].data is None for s in samples)
    assert [s.media[0].image().tobytes() for s in samples] == [noise(i, 40).tobytes() for i in range(4)]
    assert read(tmp_path / "large.parquet") == samples
    stored = [file for file in (tmp_path / "cache" / "media").rglob("*") if file.is_file()]
    assert {file.name for file in stored} == {s.media[0].sha256 for s in samples}
    stored[0].write_bytes(b"damaged")
    assert read(tmp_path / "large.parquet") == samples  # and written anew
    assert {len(s.media[0].read()) for s in samples} == {len(row["image"]["bytes"]) for row in rows}


def test_a_full_cache_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIUNE_CACHE", str(tmp_path / "file"))
    row = Row({"images": [encoded(noise(0))]}, tmp_path / "x.parquet", 0, tmp_path, cached=True)
    with pytest.raises(Exception, match=r"could not be written.*free some space"):
        row.images("images")


def test_one_module_imports_the_library() -> None:
    root = Path(reading.__file__).parents[1]
    users = [
        file.name
        for file in root.rglob("*.py")
        if "import datasets\n" in file.read_text() or "from datasets" in file.read_text()
    ]
    assert users == ["huggingface.py"]


def test_the_options_of_tables_are_documented_with_their_defaults() -> None:
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    for name, info in NamedColumns.model_fields.items():
        if name in Adapter.model_fields:
            continue
        ((default, meaning),) = re.findall(rf"(?m)^\| `{name}` \| (.*?) \| (.*?) \|$", text)
        assert meaning
        if info.default and name not in ("answers",):
            assert default.startswith(
                "`" + (f"[{', '.join(info.default)}]" if isinstance(info.default, tuple) else info.default)
            )
