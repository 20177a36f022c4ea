"""Python files of the user's own that a recipe names: `plugins: [my_verifier.py]`.

A file registers what it defines, as a package with an entry point does, without being installed. The resolved recipe
holds its text: a run is continued, evaluated and judged again by the code that it was started with, wherever the file is.
Loading a recipe runs this code, so read a stranger's recipe before you load it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import keyword
import os
import sys
import types
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from triune.core.base import Frozen
from triune.core.cache import cache_folder

_loaded: dict[str, UserFile] = {}
_origins: dict[str, Path] = {}


class UserFile(Frozen):
    """A file by its module's name and its text; in a recipe file its path, relative to the recipe.

    Whoever has one can rely on it: it has been run. It must not import its neighbours, which are not saved with a run.
    """

    name: str = Field(min_length=1)
    code: str

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        path = Path(value).absolute()
        try:
            code = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if path.suffix != ".py":
            raise ValueError(f"{path} is not a Python file: its name must end in .py")
        _origins[_hash(code)] = path
        return {"name": path.stem, "code": code}

    @model_validator(mode="after")
    def _run(self) -> UserFile:
        earlier = _loaded.get(self.name)
        if earlier is not None:
            if earlier.code != self.code:
                raise ValueError(
                    f"{self.name}.py was already loaded in this process with other contents; start a new one, or rename it"
                )
            return self
        if not self.name.isidentifier() or keyword.iskeyword(self.name):
            raise ValueError(f"{self.name}.py cannot be imported: name the file as Python names modules")
        if self.name in sys.modules or importlib.util.find_spec(self.name) is not None:
            raise ValueError(f"{self.name}.py has the name of a module that is installed; rename it")
        copy = self._copied()
        # Verifiers' worker processes import it by name; at the end of the path it can hide nothing.
        sys.path.append(str(copy.parent))
        # Here it runs under its own path, so that tracebacks and breakpoints are in the user's file.
        place = str(_origins.get(_hash(self.code), copy))
        module = types.ModuleType(self.name)
        module.__file__ = place
        sys.modules[self.name] = module
        try:
            exec(compile(self.code, place, "exec", dont_inherit=True), module.__dict__)
        except Exception as error:
            del sys.modules[self.name]
            sys.path.remove(str(copy.parent))
            raise ValueError(f"{place} cannot be run: {type(error).__name__}: {error}") from error
        _loaded[self.name] = self
        return self

    def _copied(self) -> Path:
        path = cache_folder("plugins") / _hash(self.code)[:16] / f"{self.name}.py"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(self.code, encoding="utf-8", newline="")
            os.replace(temporary, path)
        except OSError as error:
            raise ValueError(
                f"{path} cannot be written ({error.strerror or error}); set TRIUNE_CACHE to a folder that can"
            ) from error
        return path


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
