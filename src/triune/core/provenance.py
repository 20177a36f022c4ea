"""What a run was made from, saved beside it: the resolved recipe, versions, seeds and the state of the code."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from triune.core.errors import StorageError
from triune.core.recipe import Recipe

RECIPE_FILE = "recipe.yaml"
PROVENANCE_FILE = "provenance.json"


def save_provenance(run_dir: Path, recipe: Recipe) -> None:
    """Writes `recipe.yaml` (every key resolved; loads back equal), `provenance.json`, and for reading the user's own
    files under `plugins/`. Raises StorageError."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for file in recipe.plugins:
            (run_dir / "plugins").mkdir(exist_ok=True)
            (run_dir / "plugins" / f"{file.name}.py").write_text(file.code, encoding="utf-8")
        said = json.dumps(provenance(recipe), indent=1) + "\n"
        for name, text in {PROVENANCE_FILE: said, RECIPE_FILE: recipe.to_yaml()}.items():
            partial = run_dir / f".{name}.partial"  # a run that is killed here holds a whole recipe or none
            partial.write_text(text, encoding="utf-8")
            partial.replace(run_dir / name)
    except OSError as error:
        raise StorageError(f"{run_dir} cannot be written: {error.strerror or error}") from error


def provenance(recipe: Recipe) -> dict[str, Any]:
    """Recipe name and hash, seed, platform, Python, every installed package's version, and the code's git state."""
    return {
        "recipe": recipe.name,
        "recipe_sha256": hashlib.sha256(recipe.to_yaml().encode()).hexdigest(),
        "seed": recipe.seed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {
            name: found.version
            for found in metadata.distributions()
            if (name := found.metadata["Name"]) is not None
        },
        "git": git_state(Path(__file__).parent),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, whether tracked files differ from it, and the hash of that difference; None outside a checkout."""
    # An installed package may lie inside somebody else's checkout: only tracked files are that checkout's state.
    tracked, commit = _git(folder, "ls-files", "--", "."), _git(folder, "rev-parse", "HEAD")
    if not tracked or commit is None:
        return None
    diff = _git(folder, "diff", "HEAD") or b""
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(diff),
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
    }


def _git(folder: Path, *command: str) -> bytes | None:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, check=True, timeout=20
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
