"""Published update rules as data: one YAML file each in `presets/`, laid under what a recipe says.

A file holds: `title`; `sources`, where it was published and which code was read; `equation`, the loss in plain text;
`notes`, what differs between sources and what was decided; `recipe`, keys outside `algo` that belong to it, for people to
copy (`train.rollouts_per_prompt: 8`); `required`, dotted keys below `algo` that a recipe must give because no source states
them, each with a value of ours to try the preset with (`terms.vpo.alpha: 0.01`); `algo`.
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
    required: dict[str, JsonValue] = Field(default_factory=dict)
    algo: dict[str, Any]

    def tried(self) -> dict[str, Any]:
        """Options of `algo` that use the preset as it is, with our values where the sources are silent."""
        from triune.core.loading import merge, tree

        chosen: dict[str, Any] = merge({"kind": "policy_gradient", "preset": self.name}, tree(self.required))
        return chosen


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
