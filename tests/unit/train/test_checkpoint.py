"""A checkpoint is whole or it is not there: with a killed process, a full disk and a damaged file."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triune.core.errors import RecipeError, StorageError
from triune.testing.models import tiny
from triune.testing.table import recipe
from triune.train import checkpoint
from triune.train.position import Position


class Small:
    """As much of a family as a checkpoint needs."""

    def __init__(self, value: float = 0.0) -> None:
        self.weight = torch.full((4,), value)

    def save(self, path: Path) -> None:
        path.mkdir()
        torch.save(self.weight, path / "weight.pt")

    def load(self, path: Path) -> None:
        self.weight = torch.load(path / "weight.pt")


def position(step: int) -> Position:
    return Position(
        batches=0,
        step=step, draws=step, next=(), sources=(), skipped={}, judged={}, monitor={}, versions={}
    )  # fmt: skip


def write(folder: Path, step: int, family: Any = None, keep: int = 0, **state: object) -> Path:
    return checkpoint.write(
        folder, position(step), family or Small(step), state, recipe(checkpoint_keep=keep)
    )


def read(path: Path, family: Any) -> tuple[int, dict[str, Any]]:
    return checkpoint.position_of(path).step, checkpoint.read(path, family)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Every write beyond `size` bytes fails, in any library: the kernel refuses it as it would on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_written_and_read(tmp_path: Path) -> None:
    state = {"adamw": {"step": 3}, "moment": torch.arange(5.0)}
    torch.manual_seed(1)
    path = write(tmp_path, 12, Small(7.0), **state)
    drawn = torch.rand(3), np.random.standard_normal(3).tolist(), random.random()
    assert checkpoint.latest(tmp_path) == path == tmp_path / "checkpoints" / "step-000012"
    family = Small()
    step, found = read(path, family)
    assert step == 12
    assert found["adamw"] == state["adamw"]
    assert torch.equal(found["moment"], state["moment"])  # type: ignore[arg-type]
    assert torch.equal(family.weight, torch.full((4,), 7.0))
    again = torch.rand(3), np.random.standard_normal(3).tolist(), random.random()
    assert torch.equal(again[0], drawn[0])  # random numbers go on where they were
    assert again[1:] == drawn[1:]
    assert (path / "recipe.yaml").read_text() == recipe().to_yaml()


def test_the_newest_is_found_and_a_step_can_be_written_again(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        write(tmp_path, step)
    assert checkpoint.latest(tmp_path).name == "step-000010"
    write(tmp_path, 10, Small(99.0))
    family = Small()
    read(checkpoint.latest(tmp_path), family)
    assert family.weight[0] == 99.0
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-000002",
        "step-000009",
        "step-000010",
    ]
    with pytest.raises(RecipeError, match="no checkpoint"):
        checkpoint.latest(tmp_path / "elsewhere")


KILLED = """
import os, sys, time
from pathlib import Path
import torch
from triune.testing.table import recipe
from triune.train import checkpoint
from triune.train.position import Position

class Small:
    def save(self, path):
        path.mkdir()
        with (path / "weight.pt").open("wb") as file:
            for part in range(1000):
                file.write(os.urandom(1 << 16))
                file.flush()
                if part == 20:
                    here("save")

def here(place):
    if place == sys.argv[2]:
        print("here", flush=True)
        time.sleep(60)

rename = Path.rename
def renaming(self, target):
    here("rename" if self.name.endswith(".partial") else "replace")
    return rename(self, target)
Path.rename = renaming
at = Position(step=int(sys.argv[3]), batches=0, draws=0, next=(), sources=(), skipped={}, judged={}, monitor={}, versions={})
checkpoint.write(Path(sys.argv[1]), at, Small(), {"big": torch.zeros(1000)}, recipe())
"""


@pytest.mark.parametrize(("place", "step"), [("save", 2), ("replace", 1), ("rename", 1)])
def test_a_killed_process_leaves_the_earlier_checkpoint(tmp_path: Path, place: str, step: int) -> None:
    write(tmp_path, 0, Small(0.5))
    write(tmp_path, 1, Small(1.5))
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), place, str(step)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=30) == -signal.SIGKILL
    assert list((tmp_path / "checkpoints").glob(".step-*.partial"))  # it was really in the middle
    # Also while step 1 itself is replaced, and between the two renames that this takes, the old one is found.
    family = Small()
    assert read(checkpoint.latest(tmp_path), family)[0] == 1
    assert family.weight[0] == 1.5
    write(tmp_path, 2, Small(2.5))
    assert not list((tmp_path / "checkpoints").glob(".*"))  # what the dead process left is gone


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    family = tiny("llava")
    write(tmp_path, 1, family)
    with (
        files_of_at_most(1 << 16),
        pytest.raises(StorageError, match=r"step 2 .*Earlier checkpoints are intact"),
    ):
        write(tmp_path, 2, family)  # safetensors
    with files_of_at_most(1 << 16), pytest.raises(StorageError, match="step 3"):
        write(tmp_path, 3, Small(), moments=torch.zeros(1 << 18))  # torch
    left = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert left == ["step-000001"]
    other = tiny("llava", seed=1)
    assert read(checkpoint.latest(tmp_path), other)[0] == 1
    for a, b in zip(family.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(StorageError, match="step 1"):
        write(tmp_path, 1)


@pytest.mark.parametrize("damage", ["learner.pt", "state.json", "model/model.safetensors"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str, cut: bool) -> None:
    family = tiny("llava")
    path = write(tmp_path, 5, family, moment=torch.zeros(100))
    broken = path / damage
    if cut:
        broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    else:
        broken.unlink()
    with pytest.raises(RecipeError, match="step-000005 is not a complete checkpoint"):
        read(path, family)


def test_the_oldest_go_where_the_recipe_keeps_few(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step)
    write(tmp_path, 4, keep=2)
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-000003", "step-000004"]
    # Gone back to an older one: what is written is kept, whatever its number.
    write(tmp_path, 2, keep=1)
    assert "step-000002" in {p.name for p in checkpoint.found(tmp_path)}
    assert not list((tmp_path / "checkpoints").glob(".*"))
