"""Every recipe that ships can be loaded, resolved, staged and explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from triune.core.describe import annotated
from triune.core.loading import list_recipes
from triune.core.recipe import Recipe
from triune.core.schedule import Progress

RECIPES = list_recipes()


def test_recipes_ship() -> None:
    assert "quickstart" in RECIPES
    assert {f"orsta/{name}" for name in ("7b", "7b-off-policy", "32b", "32b-off-policy")} <= RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_resolves_and_loads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(RECIPES[name])
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    assert Recipe.load(tmp_path / "resolved.yaml") == recipe
    (tmp_path / "annotated.yaml").write_text(annotated(recipe))
    assert Recipe.load(tmp_path / "annotated.yaml") == recipe


@pytest.mark.parametrize("name", [name for name in RECIPES if "/ablations/" in name])
def test_an_ablation_is_its_base_and_what_it_is_about(name: str) -> None:
    given = yaml.safe_load(RECIPES[name].read_text())
    base = Recipe.load(RECIPES[name].parent / given["base"]).dump()
    whole = Recipe.load(RECIPES[name]).dump()

    def changed(key: str, a: Any, b: Any) -> set[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            return {found for k in a | b for found in changed(f"{key}.{k}", a.get(k), b.get(k))}
        return {key} if a != b else set()

    assert whole["name"] == given["name"]
    # A reward form is compared at IoU .5, and a rate on the larger model: two keys; everything else is one.
    keys = {key.split("det_reward_ratio")[0] for key in changed("", base, whole)} - {".name"}
    assert 1 <= len(keys) <= 2


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is_for_and_its_arithmetic_adds_up(name: str) -> None:
    assert RECIPES[name].read_text().startswith("# ")
    recipe = Recipe.load(RECIPES[name])
    assert recipe.arithmetic()
    total = recipe.train.total_steps
    for step in range(1, total + 1):
        assert recipe.at(Progress(step=step, total_steps=total)).train.total_steps == total
