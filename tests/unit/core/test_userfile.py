"""A recipe's own Python files: run once, saved as text, refused with a reason."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from triune.core.describe import annotated
from triune.core.errors import RecipeError
from triune.core.loading import list_recipes
from triune.core.recipe import Recipe

NUMBERS = itertools.count()
CODE = "from triune.verify.verifier import verifiers\n\n\nWHO = 'a \\\\ backslash and \"quotes\"'\n"


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module's name that no other test uses: what is imported stays."""
    monkeypatch.setenv("TRIUNE_CACHE", str(tmp_path / "cache"))
    return f"mine_{next(NUMBERS)}"


def recipe(folder: Path, *files: str) -> Path:
    quickstart = list_recipes()["quickstart"]
    shutil.copy(quickstart, folder / "base.yaml")
    (folder / "mine.yaml").write_text(f"base: base.yaml\nplugins: [{', '.join(files)}]\n")
    return folder / "mine.yaml"


def test_a_file_runs_and_the_resolved_recipe_holds_it(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(CODE)
    loaded = Recipe.load(recipe(tmp_path, f"{name}.py"))
    assert sys.modules[name].WHO.startswith("a ")
    assert sys.modules[name].__file__ == str(tmp_path / f"{name}.py")
    assert loaded.plugins[0].code == CODE
    (tmp_path / f"{name}.py").unlink()
    for text in (loaded.to_yaml(), annotated(loaded)):
        (tmp_path / "resolved.yaml").write_text(text)
        assert Recipe.load(tmp_path / "resolved.yaml") == loaded


def test_the_resolved_recipe_runs_the_file_in_another_process_and_its_children(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.py").write_text(CODE)
    loaded = Recipe.load(recipe(tmp_path, f"{name}.py"))
    (tmp_path / "resolved.yaml").write_text(loaded.to_yaml())
    (tmp_path / f"{name}.py").unlink()
    code = f"""
import os, subprocess, sys
from triune.core.recipe import Recipe
Recipe.load("resolved.yaml")
import {name}
path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # as verifiers' workers are started
child = [sys.executable, "-P", "-c", "import {name}; print({name}.WHO)"]
print(subprocess.run(child, env={{**os.environ, "PYTHONPATH": path}}, capture_output=True, text=True).stdout)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "a \\ backslash" in done.stdout, done.stderr


def test_a_file_beside_the_base_recipe_is_found_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / f"{name}.py").write_text(CODE)
    recipe(tmp_path / "shared", f"{name}.py")
    under = (tmp_path / "shared" / "mine.yaml").read_text().replace("base: base.yaml\n", "")
    (tmp_path / "shared" / "under.yaml").write_text(list_recipes()["quickstart"].read_text() + under)
    (tmp_path / "over.yaml").write_text("base: shared/under.yaml\nseed: 3\n")
    assert Recipe.load(tmp_path / "over.yaml").plugins[0].name == name


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("{name}.py", None, r"mine.yaml:2: plugins\[0\]: .*{name}.py cannot be read: No such file"),
        ("{name}.txt", "", r"must end in .py"),
        ("{name}.py", "1 / 0", r"{name}.py cannot be run: ZeroDivisionError"),
        ("{name}.py", "def x(", r"{name}.py cannot be run: SyntaxError"),
        ("json.py", "", r"json.py has the name of a module that is installed; rename it"),
        ("{name}-2.py", "", r"name the file as Python names modules"),
    ],
)
def test_files_that_cannot_be(file: str, text: str | None, message: str, name: str, tmp_path: Path) -> None:
    file, message = file.replace("{name}", name), message.replace("{name}", name)
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(RecipeError, match=message):
        Recipe.load(recipe(tmp_path, file))
    assert name not in sys.modules


def test_a_file_that_changed_is_not_run_beside_its_earlier_self(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(CODE)
    file = recipe(tmp_path, f"{name}.py")
    Recipe.load(file)
    (tmp_path / f"{name}.py").write_text(CODE + "WHO = 2\n")
    with pytest.raises(RecipeError, match="already loaded in this process with other contents"):
        Recipe.load(file)
