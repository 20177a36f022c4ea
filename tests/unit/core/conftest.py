"""Dummy plug-ins, so that tests of the recipe do not depend on which real ones exist."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
from pydantic import Field

from triune.core.base import Frozen
from triune.core.recipe import Recipe
from triune.core.registry import Registry


class Small(Frozen):
    kind: Literal["small"] = "small"
    width: int = Field(8, ge=1, description="units of a layer")


class Large(Frozen):
    kind: Literal["large"] = "large"
    depth: int = Field(description="layers")


class Clip(Frozen):
    kind: Literal["clip"] = "clip"
    low: float = 0.2
    terms: tuple[dict[str, float], ...] = ()


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {
        ("policy", "POLICIES"): {"small": Small, "large": Large},
        ("rollout", "ROLLOUTS"): {"small": Small},
        ("algo", "ALGOS"): {"clip": Clip},
    }
    for (kind, name), options in kinds.items():
        module = ModuleType(f"triune.{kind}.options")
        registry: Registry[type[Frozen]] = Registry(kind, "triune.core.errors")
        for key, cls in options.items():
            registry.register(key)(cls)
        setattr(module, name, registry)
        monkeypatch.setitem(sys.modules, module.__name__, module)


RECIPE = """\
name: toy
data:
  sources:
    - name: embedded/*
      weight: 2
    - {name: mine, path: rows.jsonl, adapter: vtriune}
policy:
  kind: small
  width: 4
rollout: small
algo: {kind: clip, low: 1e-1}
train:
  total_steps: 100
  prompts_per_step: 16
"""


@pytest.fixture
def recipe_text() -> str:
    return RECIPE


Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path, plugins: None) -> Load:
    """Loads RECIPE, or `text`, with overrides."""

    def loader(*overrides: str, text: str = RECIPE, files: Sequence[tuple[str, str]] = ()) -> Recipe:
        for name, content in files:
            (tmp_path / name).write_text(content)
        (tmp_path / "toy.yaml").write_text(text)
        return Recipe.load(tmp_path / "toy.yaml", overrides)

    return loader
