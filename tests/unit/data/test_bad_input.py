"""Data that cannot be used stops `triune data check` and `triune train` alike: exit code 2, file, row and what to do."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from triune.cli import main
from triune.core.errors import DataError
from triune.core.loading import list_recipes
from triune.data.source import TableSource
from triune.testing.orsta import TRAIN, write_orsta

Make = Callable[[Path], dict[str, Any]]


def table(folder: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "rows.parquet")
    return folder / "rows.parquet"


def lines(folder: Path, change: dict[str, Any]) -> dict[str, Any]:
    """Ten EasyR1 rows, the eighth (number 7) changed."""
    rows: list[dict[str, Any]] = [
        {"problem": "<image>What?", "answer": str(i), "images": ["a.png"]} for i in range(10)
    ]
    rows[7] |= change
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(folder / "rows.jsonl"), "adapter": "easyr1"}


def orsta(folder: Path) -> Path:
    return write_orsta(folder, rows=3, files=TRAIN[:1])[0]


def cut(folder: Path) -> dict[str, Any]:
    path = orsta(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return {"path": str(path), "adapter": "vtriune"}


def scrambled(folder: Path) -> dict[str, Any]:
    path = orsta(folder)
    data = bytearray(path.read_bytes())
    data[100:400] = bytes(random.Random(0).randrange(256) for _ in range(300))
    path.write_bytes(data)
    return {"path": str(path), "adapter": "vtriune"}


def without_column(folder: Path) -> dict[str, Any]:
    path = orsta(folder)
    pq.write_table(pq.read_table(path).drop_columns("reward_model"), path)
    return {"path": str(path), "adapter": "vtriune"}


def broken_picture(folder: Path) -> dict[str, Any]:
    rows = pq.read_table(orsta(folder)).to_pylist()
    rows[1]["images"][0]["bytes"] = b"<html>404</html>"
    return {"path": str(table(folder, *rows)), "adapter": "vtriune"}


def boxes(folder: Path) -> dict[str, Any]:
    good = "a.png,1,2,3,4,cat\n"
    (folder / "boxes.csv").write_text("image,x1,y1,x2,y2,label\n" + good * 7 + "a.png,1,2,wide,4,cat\n")
    return {"path": str(folder / "boxes.csv"), "adapter": "folder"}


def text_as_picture(folder: Path) -> dict[str, Any]:
    (folder / "b.jpg").write_text("not a picture")
    return lines(folder, {"images": ["b.jpg"]})


def linked(folder: Path) -> dict[str, Any]:
    (folder / "data").mkdir()
    (folder / "data" / "a.png").symlink_to(folder / "a.png")
    return lines(folder / "data", {})


CASES: dict[str, tuple[Make, str]] = {
    "a Parquet file that was cut off": (cut, r"mmmath_3.parquet.* cannot be read as Parquet: .*download it again"),
    "a Parquet file with a damaged page": (scrambled, r"mmmath_3.parquet.* cannot be read.*download it again"),
    "a missing column": (without_column, r"mmmath_3.parquet, row 0: .*reward_model.verifier.* missing"),
    "a wrong type in row 7": (
        lambda f: lines(f, {"problem": 3}), r"rows.jsonl, row 7: field 'problem' must be a str, got int 3"
    ),
    "a wrong type in row 7 of a CSV": (boxes, r"boxes.csv, row 7: column 'x2' is 'wide'; it must be a number"),
    "a field that is null": (lambda f: lines(f, {"answer": None}), r"row 7: field 'answer' is null; give it a"),
    "bytes that are not a picture": (broken_picture, r"rows.parquet, row 1: images\[0\] \(bytes\) not a readable image"),
    "a file that is not a picture": (text_as_picture, r"row 7: images\[0\] \(.*b.jpg\) not a readable image.*re-export"),
    "a picture that is not there": (lambda f: lines(f, {"images": ["no.png"]}), r"row 7: images\[0\] names .*no.png"),
    "a path outside the data folder": (
        lambda f: lines(f, {"images": ["../../etc/hostname"]}),
        r"row 7: images\[0\] names '../../etc/hostname', which leads out of the data folder.*`allow_outside: true`",
    ),
    "an absolute path elsewhere": (
        lambda f: lines(f, {"images": ["/etc/hostname"]}), r"row 7: .*leads out of the data folder .*set `folder`"
    ),
    "a link that leads outside": (linked, r"row 0: images\[0\] names 'a.png', which leads out of the data folder"),
    "rows of another format": (
        lambda f: lines(f, {}) | {"adapter": "trl"},
        r"row 0: not a row that adapter 'trl' reads. It wants prompt and solution, or messages and solution, "
        r"or chosen and rejected and solution; the columns "
        r"are problem, answer, images.* set adapter: easyr1",
    ),
    "rows of no known format": (
        lambda f: {"path": str(table(f, {"colour": "red"})), "adapter": "verl"},
        r"row 0: .*the columns are colour.*No adapter knows them",
    ),
    "a file without rows": (
        lambda f: {"path": str(empty(f)), "adapter": "folder"}, r"no usable train rows in .*empty.csv"
    ),
}  # fmt: skip


def empty(folder: Path) -> Path:
    (folder / "empty.csv").write_text("image,x1,y1,x2,y2,label\n")
    return folder / "empty.csv"


@pytest.mark.parametrize("case", CASES)
def test_it_is_said_by_check_and_by_train(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    make, message = CASES[case]
    values = yaml.safe_load(list_recipes()["start/questions"].read_text())
    values["data"] = {"sources": [{"name": "mine", **make(tmp_path)}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    commands = (["data", "check", "mine.yaml"], ["train", "mine.yaml", "--run-dir", "run"])
    monkeypatch.chdir(tmp_path)
    for arguments in commands:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert re.search(message, said, re.DOTALL), said
        assert "Traceback" not in said


def test_a_damaged_parquet_file_is_read_or_refused(tmp_path: Path) -> None:
    whole, refused = orsta(tmp_path).read_bytes(), 0
    for seed in range(24):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path = tmp_path / "damaged.parquet"
        path.write_bytes(data[: rng.randrange(len(data))] if seed % 4 == 0 else data)
        try:
            source = TableSource(str(path), "vtriune")
        except DataError as error:
            refused += "damaged.parquet" in str(error)
        else:
            assert source.num_samples == 3
    assert refused > 6
