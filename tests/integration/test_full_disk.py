"""A run whose disk is full ends with a message, keeps what was written, and goes on when there is space again."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from triune.core.recipe import Recipe
from triune.loop import Loop
from triune.monitor.store import Store
from triune.train import checkpoint

Fill = Callable[[int], Callable[[], None]]
"""Leaves a process no more space; what it returns gives the space back."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Fill]]:
    """A folder, and how it is filled: a small disk of its own where this process may mount one, else a limit to the size
    of the files that a process may write."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def fill(process: int) -> Callable[[], None]:
        if not mounted:
            largest = (folder / "run" / "metrics.sqlite-wal").stat().st_size
            resource.prlimit(process, resource.RLIMIT_FSIZE, (largest, largest))
            return lambda: None
        hog = folder / "hog"
        with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        return hog.unlink

    yield folder, fill
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_run_on_a_full_disk_ends_and_goes_on_later(recipe_file: Path, disk: tuple[Path, Fill]) -> None:
    folder, fill = disk
    run = folder / "run"
    keys = [
        "train.total_steps=500",
        "train.checkpoint_every=3",
        "train.checkpoint_keep=1",
        "train.eval_every=0",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "triune.cli", "train", str(recipe_file), *keys, "--run-dir", str(run)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 180
    while not checkpoint.found(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    free = fill(process.pid)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 2, output
    assert "intact" in output
    assert str(run) in output
    assert "Traceback" not in output
    free()
    saved = checkpoint.latest(run)
    step = int(saved.name.removeprefix("step-"))
    with Store(run, readonly=True) as store:
        steps = store.steps()
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= step  # no checkpoint is ahead of what was logged
        assert store.rollout_steps() == steps
        assert all(len(store.rollouts("train", step)) == 16 for step in steps)
    with Loop(Recipe.load(run / "recipe.yaml"), run) as loop:
        loop.restore(saved)
        loop.step()
        assert loop.monitor.store.steps() == list(range(1, step + 2))
