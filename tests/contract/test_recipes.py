"""Every recipe that ships can be loaded, resolved, staged and explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from triune.core.describe import annotated
from triune.core.loading import list_recipes
from triune.core.recipe import Recipe
from triune.core.schedule import Progress

RECIPES = list_recipes()


def test_recipes_ship() -> None:
    assert "quickstart" in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_resolves_and_loads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(RECIPES[name])
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    assert Recipe.load(tmp_path / "resolved.yaml") == recipe
    (tmp_path / "annotated.yaml").write_text(annotated(recipe))
    assert Recipe.load(tmp_path / "annotated.yaml") == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is_for_and_its_arithmetic_adds_up(name: str) -> None:
    assert RECIPES[name].read_text().startswith("# ")
    recipe = Recipe.load(RECIPES[name])
    assert recipe.arithmetic()
    total = recipe.train.total_steps
    for step in range(1, total + 1):
        assert recipe.at(Progress(step=step, total_steps=total)).train.total_steps == total
