"""Checkpoints: model in its ecosystem's layout, optimiser and position, written whole or not at all.

A checkpoint is a folder `checkpoints/step-000123` that appears by a rename. Everything random in a run is a pure
function of (seed, step, sample, rank), so weights, optimiser and step number are all that a bit-exact resume needs.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError

from triune.core.errors import RecipeError, StorageError
from triune.policy.family import Family


def write(run_dir: Path, step: int, family: Family, state: Mapping[str, object], recipe_yaml: str) -> Path:
    """Saves everything under a temporary name, then renames. Raises StorageError when the disk refuses."""
    root = run_dir / "checkpoints"
    final, partial, replaced = (
        root / name for name in (f"step-{step:06d}", f".step-{step:06d}.partial", ".replaced")
    )
    try:
        for rest in (*root.glob(".step-*.partial"), replaced):  # of a process that was killed while it wrote
            shutil.rmtree(rest, ignore_errors=True)
        partial.mkdir(parents=True)
        family.save(partial / "model")
        torch.save({**state, "torch_rng": torch.get_rng_state()}, partial / "learner.pt")
        (partial / "recipe.yaml").write_text(recipe_yaml)
        (partial / "state.json").write_text(json.dumps({"step": step}))
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        _sync(root)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(
            f"the checkpoint of step {step} could not be written to {final}: {error}. Earlier checkpoints are intact; "
            "free some space and continue with `triune train --resume`"
        ) from error
    return final


def _sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk: a rename must not overtake them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def latest(run_dir: Path) -> Path:
    """The newest complete checkpoint of a run; raises RecipeError when there is none."""
    found = sorted((run_dir / "checkpoints").glob("step-*"))
    if not found:
        raise RecipeError(f"{run_dir} has no checkpoint to resume from")
    return found[-1]


def read(path: Path, family: Family) -> tuple[int, dict[str, object]]:
    """Loads the weights into the live model; returns the step and the learner's state."""
    try:
        step = int(json.loads((path / "state.json").read_text())["step"])
        state: dict[str, object] = torch.load(path / "learner.pt", weights_only=True)
        rng = state.pop("torch_rng")
        family.load(path / "model")
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        raise RecipeError(f"{path} is not a complete checkpoint: {error}") from error
    assert isinstance(rng, torch.Tensor)
    torch.set_rng_state(rng)
    return step, state
