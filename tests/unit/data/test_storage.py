"""Files are whole or absent, and are never read as something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from triune.core.errors import DataError, StorageError
from triune.core.sample import Sample
from triune.core.verdict import Component, Verdict
from triune.data import parquet
from triune.data.files import atomic


def verdict(i: int) -> Verdict:
    return Verdict(id=str(i), reward=1.0, components=(Component(name="math", value=1.0, weight=1.0),))


FULL_DISK = """
import resource, sys
from pathlib import Path
from triune.core.errors import StorageError
from triune.core.verdict import Component, Verdict
from triune.data import parquet

rows = [Verdict(id=f"{i}", reward=i * 0.1, components=(Component(name=f"{i}", value=1.0, weight=1.0),)) for i in range(5000)]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    parquet.write(Path(sys.argv[1]), rows, Verdict)
except StorageError as error:
    print(error)
"""


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.parquet"
    parquet.write(path, [verdict(0)], Verdict)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert "could not be written" in done.stdout
    assert "intact" in done.stdout
    assert parquet.read(path, Verdict) == [verdict(0)]
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "x") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        parquet.write(tmp_path / "file" / "x.parquet", [verdict(0)], Verdict)


def test_the_type_is_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.parquet"
    parquet.write(path, [verdict(0)], Verdict)
    with pytest.raises(DataError, match="holds Verdict objects, expected Sample"):
        parquet.read(path, Sample)
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(DataError, match="was not written by triune"):
        parquet.read(path, Verdict)


def test_scalars_are_columns_for_other_tools(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.parquet"
    parquet.write(path, [verdict(i) for i in range(3000)], Verdict)
    table = pq.read_table(path)
    assert table.column("reward").type == pa.float64()
    assert table.column("id").to_pylist()[-1] == "2999"
    assert len(parquet.read(path, Verdict)) == 3000


def test_fields_added_later_take_their_default(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.parquet"
    parquet.write(path, [verdict(0)], Verdict)
    old = pq.read_table(path).drop_columns(["elapsed", "correct"])
    pq.write_table(old, path)
    assert parquet.read(path, Verdict) == [verdict(0)]


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.parquet"
    parquet.write(path, [verdict(0), verdict(1)], Verdict)
    table = pq.read_table(path)
    components = table.column("components").to_pylist()
    table = table.set_column(
        table.schema.get_field_index("components"), "components", [[components[0], "[{]"]]
    )
    pq.write_table(table, path)
    with pytest.raises(DataError, match="row 1: not a valid Verdict"):
        parquet.read(path, Verdict)
