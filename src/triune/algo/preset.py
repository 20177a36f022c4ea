"""Published update rules as data: one YAML file each in `presets/`, laid under what a recipe says.

A file holds: `title`; `sources`, where it was published and which code was read; `equation`, the loss in plain text;
`notes`, what differs between sources and what was decided; `recipe`, keys outside `algo` that belong to it, for people to
copy (`train.rollouts_per_prompt: 8`); `required`, keys that a recipe must give because no source states them; `algo`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from triune.core.base import Frozen
from triune.core.errors import RecipeError, nearest

FOLDER = Path(__file__).parent / "presets"


class Preset(Frozen):
    """One published update rule."""

    name: str
    title: str
    sources: tuple[str, ...] = Field(min_length=1)
    equation: str
    notes: tuple[str, ...] = ()
    recipe: dict[str, JsonValue] = Field(default_factory=dict)
    required: tuple[str, ...] = ()
    algo: dict[str, Any]


def names() -> list[str]:
    """The presets that ship with triune."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


@cache
def load(name: str) -> Preset:
    """A preset by name. Raises RecipeError for one that does not exist."""
    from triune.core.loading import read

    file = FOLDER / f"{name}.yaml"
    if name not in names():
        raise RecipeError(f"unknown preset {name!r}; {nearest(name, names())}")
    return Preset.model_validate({"name": name, **read(file).values})
