"""A checkpoint is whole or it is not there: with a killed process, a full disk and a damaged file."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from triune.core.errors import RecipeError, StorageError
from triune.testing.models import tiny
from triune.train import checkpoint


class Small:
    """As much of a family as a checkpoint needs."""

    def __init__(self, value: float = 0.0) -> None:
        self.weight = torch.full((4,), value)

    def save(self, path: Path) -> None:
        path.mkdir()
        torch.save(self.weight, path / "weight.pt")

    def load(self, path: Path) -> None:
        self.weight = torch.load(path / "weight.pt")


def write(folder: Path, step: int, family: Any = None, **state: object) -> Path:
    return checkpoint.write(folder, step, family or Small(step), state, "name: x\n")


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
    drawn = torch.rand(3)
    assert checkpoint.latest(tmp_path) == path == tmp_path / "checkpoints" / "step-000012"
    family = Small()
    step, found = checkpoint.read(path, family)  # type: ignore[arg-type]
    assert step == 12
    assert found["adamw"] == state["adamw"]
    assert torch.equal(found["moment"], state["moment"])  # type: ignore[arg-type]
    assert torch.equal(family.weight, torch.full((4,), 7.0))
    assert torch.equal(torch.rand(3), drawn)  # random numbers go on where they were
    assert (path / "recipe.yaml").read_text() == "name: x\n"


def test_the_newest_is_found_and_a_step_can_be_written_again(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        write(tmp_path, step)
    assert checkpoint.latest(tmp_path).name == "step-000010"
    write(tmp_path, 10, Small(99.0))
    family = Small()
    checkpoint.read(checkpoint.latest(tmp_path), family)  # type: ignore[arg-type]
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
from triune.train import checkpoint

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
checkpoint.write(Path(sys.argv[1]), int(sys.argv[3]), Small(), {"big": torch.zeros(1000)}, "name: x")
"""


@pytest.mark.parametrize(("place", "step"), [("save", 2), ("rename", 2), ("rename", 1)])
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
    # While step 1 itself is replaced, the last whole checkpoint may be the one before it; it is never half of one.
    expected = 1 if step == 2 else 0
    family = Small()
    assert checkpoint.read(checkpoint.latest(tmp_path), family)[0] == expected  # type: ignore[arg-type]
    assert family.weight[0] == expected + 0.5
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
    assert checkpoint.read(checkpoint.latest(tmp_path), other)[0] == 1
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
        checkpoint.read(path, family)
