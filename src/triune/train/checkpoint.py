"""Checkpoints: the model in its ecosystem's layout, optimiser and position, written whole or not at all.

    checkpoints/step-000123/model/         what the family saves: weights and processor, or adapters as a PEFT folder
                            learner.pt     optimiser, and the state of every random number generator
                            state.json     the position: data, judge, monitor, versions (train/position.py)
                            recipe.yaml    the recipe, every key resolved

The folder appears by a rename. What a run draws is a pure function of (seed, step, sample, rank); generators are saved
all the same, for whatever else draws in this process.
"""

from __future__ import annotations

import os
import pickle
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from triune.core.errors import RecipeError, StorageError
from triune.core.provenance import RECIPE_FILE
from triune.core.recipe import Recipe
from triune.data.files import atomic
from triune.data.mixture import Mixture
from triune.policy.family import Family
from triune.train.position import Position

_NAME = re.compile(r"\.?step-(\d+)(\.replaced)?")


def write(
    run_dir: Path, position: Position, family: Family, state: Mapping[str, object], recipe: Recipe
) -> Path:
    """Saves everything under a temporary name, then renames; then deletes what `train.checkpoint_keep` does not keep.

    Raises StorageError when the disk refuses.
    """
    root = run_dir / "checkpoints"
    name = f"step-{position.step:06d}"
    final, partial, replaced = root / name, root / f".{name}.partial", root / f".{name}.replaced"
    try:
        for rest in (
            *root.glob(".step-*.partial"),
            *root.glob(".step-*.gone"),
        ):  # of a process that was killed
            shutil.rmtree(rest, ignore_errors=True)
        partial.mkdir(parents=True)
        family.save(partial / "model")
        torch.save({**state, "rng": _generators()}, partial / "learner.pt")
        (partial / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
        (partial / "state.json").write_text(position.model_dump_json(indent=1), encoding="utf-8")
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(
                replaced
            )  # until the next line, this is the checkpoint of its step: `latest` finds it
        partial.rename(final)
        _sync(root)
        for rest in root.glob(".step-*.replaced"):
            shutil.rmtree(rest, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(
            f"the checkpoint of step {position.step} could not be written to {final}: {error}. Earlier checkpoints are "
            "intact; free some space and continue with `triune train --resume`"
        ) from error
    _prune(run_dir, recipe.train.checkpoint_keep, final)
    return final


def _prune(run_dir: Path, keep: int, newest: Path) -> None:
    """Deletes the oldest checkpoints beyond `keep` (0: none). Each loses its name first: none is ever half there."""
    for path in found(run_dir)[:-keep] if keep else ():
        if path != newest:
            gone = path.with_name(f".{path.name}.gone")
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk: a rename must not overtake them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def found(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, rising in step."""
    by_step: dict[int, Path] = {}
    for path in sorted((run_dir / "checkpoints").glob("*step-*"), reverse=True):  # `.step-..` comes last
        if match := _NAME.fullmatch(path.name):
            by_step.setdefault(int(match[1]), path)
    return [by_step[step] for step in sorted(by_step)]


def latest(run_dir: Path) -> Path:
    """The newest complete checkpoint of a run; raises RecipeError when there is none."""
    if not (paths := found(run_dir)):
        raise RecipeError(f"{run_dir} has no checkpoint")
    return paths[-1]


def begin(run_dir: Path, resume: bool) -> Path | None:
    """The checkpoint that a run goes on from; none: it starts at its first step, as one does that was killed before its
    first checkpoint. Raises RecipeError when there is no run to resume, or one that a new run would overwrite."""
    held = (run_dir / RECIPE_FILE).exists() or (run_dir / "checkpoints").exists()
    if resume and not held:
        raise RecipeError(f"{run_dir} holds no run: nothing to resume")
    if held and not resume:
        raise RecipeError(f"{run_dir} already holds a run; choose another --run-dir, or --resume {run_dir}")
    return next(reversed(found(run_dir)), None)


def resume(
    path: Path, family: Family, recipe: Recipe, mixture: Mixture
) -> tuple[Position, dict[str, Any], list[str]]:
    """Loads a checkpoint into the live model; returns its position, the learner's state, and what changed since, in words.

    Raises RecipeError when it is not whole, or is of another run than recipe and data now describe.
    """
    position = position_of(path)
    changed = position.verify(Recipe.load(path / RECIPE_FILE), recipe, mixture)
    state = read(path, family)
    if changed:
        with atomic(path.parents[1] / RECIPE_FILE) as file:
            file.write_text(recipe.to_yaml(), encoding="utf-8")
    return position, state, changed


def position_of(path: Path) -> Position:
    """The position that a checkpoint records; raises RecipeError when it is not whole."""
    try:
        return Position.model_validate_json((path / "state.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise RecipeError(f"{path} is not a complete checkpoint: {error}") from error


def read(path: Path, family: Family) -> dict[str, Any]:
    """Loads the weights into the live model and sets the random number generators; returns the learner's state."""
    try:
        state: dict[str, Any] = torch.load(path / "learner.pt", weights_only=True)
        generators = state.pop("rng")
        family.load(path / "model")
        _set_generators(generators)
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
    return state


def policy(path: Path) -> tuple[Recipe, Any]:
    """The recipe and the policy of a checkpoint, built from what it holds; adapters also need the base that they name.

    Raises RecipeError when either cannot be loaded.
    """
    recipe = Recipe.load(path / RECIPE_FILE)
    held = recipe.policy.model_copy(update={"path": str(path / "model")})
    return recipe, held.build()  # type: ignore[attr-defined]


def _generators() -> dict[str, Any]:
    """The state of every global generator that anything in this process may draw from."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    live = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if live else [],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }


def _set_generators(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(tuple(state["numpy"]))
    random.setstate(state["python"])
