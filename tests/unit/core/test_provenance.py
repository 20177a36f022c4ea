"""A run says what it was made from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from triune.core.errors import StorageError
from triune.core.provenance import git_state, save_provenance
from triune.core.recipe import Recipe


def test_the_saved_recipe_loads_back_equal(load: Any, tmp_path: Path) -> None:
    recipe = load("seed=3")
    save_provenance(tmp_path / "run", recipe)
    assert Recipe.load(tmp_path / "run" / "recipe.yaml") == recipe
    saved = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert saved["seed"] == 3
    assert saved["packages"]["pydantic"]
    assert len(saved["recipe_sha256"]) == 64


def test_git_state_tells_a_dirty_checkout(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True, capture_output=True)

    assert git_state(tmp_path) is None
    git("init")
    (tmp_path / "a.py").write_text("a = 1\n")
    git("add", "a.py")
    git("commit", "-m", "x")
    clean = git_state(tmp_path)
    assert clean is not None
    assert (clean["dirty"], clean["diff_sha256"]) == (False, None)
    (tmp_path / "a.py").write_text("a = 2\n")
    dirty = git_state(tmp_path)
    assert dirty is not None
    assert dirty["dirty"]
    assert dirty["commit"] == clean["commit"]


def test_a_folder_that_cannot_be_written(load: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save_provenance(tmp_path / "file" / "run", load())
