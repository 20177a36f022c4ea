"""Recipes: precedence, errors that point at a line, plug-ins, stages, aliases, arithmetic."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from triune.algo.options import PolicyGradient
from triune.core.describe import leaves
from triune.core.errors import RecipeError
from triune.core.loading import RecipeWarning, find_recipe
from triune.core.recipe import Recipe
from triune.core.schedule import Progress

LEAF_REASONS: dict[str, str] = {}
"""Why a key beyond the sixtieth has to be in the core and not in a plug-in."""


def test_defaults_file_and_command_line_in_that_order(load: Any) -> None:
    recipe = load("train.optimizer.lr=1e-4", "data.sources[0].weight=3", "data.sources.1.name=yours")
    assert recipe.train.optimizer.lr == 1e-4
    assert recipe.algo.low == 0.1
    assert recipe.train.rollouts_per_prompt == 8
    assert [(s.name, s.weight) for s in recipe.data.sources] == [("embedded/*", 3), ("yours", 1)]


def test_base_is_inherited_one_level(load: Any) -> None:
    base = "name: base\nseed: 5\npolicy: {kind: small, width: 6}\ntrain: {total_steps: 7, eval_every: 2}\n"
    recipe = load(text="base: base.yaml\n" + RECIPE_WITHOUT_POLICY, files=[("base.yaml", base)])
    assert (recipe.name, recipe.seed, recipe.policy.width) == ("toy", 5, 6)
    assert (recipe.train.total_steps, recipe.train.eval_every) == (100, 2)
    with pytest.raises(RecipeError, match="one level"):
        load(
            text="base: base.yaml\n" + RECIPE_WITHOUT_POLICY,
            files=[("base.yaml", "base: other.yaml\n" + base)],
        )


RECIPE_WITHOUT_POLICY = """\
name: toy
data: {sources: [{name: embedded/*}]}
rollout: small
algo: clip
train: {total_steps: 100, prompts_per_step: 16}
"""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.total_stepz=3", "train.total_stepz: unknown key; did you mean 'total_steps'?"),
        ("trian.x=3", "trian: unknown key; did you mean 'train'?"),
        ("data.sources[0].wieght=2", "data.sources[0].wieght: unknown key; did you mean 'weight'?"),
        ("policy.widht=2", "policy.widht: unknown key; did you mean 'width'?"),
        ("data.sources[1].adapter.fodler=x", "data.sources[1].adapter.fodler: unknown key; did you mean 'folder'?"),
        ("train.optimizer.lr=fast", "train.optimizer.lr: expected a valid number, unable to parse string as a "
         "number, got 'fast' (str)"),
        ("data.on_bad_row=ignore", "data.on_bad_row: expected 'error' or 'skip', got 'ignore' (str)"),
        ("train.prompts_per_step=0", "greater than or equal to 1, got 0 (int)"),
        ("policy=larg", "policy: unknown policy 'larg'; did you mean 'large'?"),
        ("policy=large", "policy.depth: is required and missing"),
        ("policy=3", "policy: expected a name or {kind: NAME, ...}"),
        ("train.optimizer.betas=[1]", "train.optimizer.betas"),
        ("data.sources[7].weight=1", "data.sources[7] is beyond the end of a list of 2"),
        ("train.minibatches_per_step=5", "prompts_per_step (16) must be a multiple of minibatches_per_step (5)"),
        ("justaword", "is not an override; write key.path=value"),
        ("name=[", "the value is not YAML"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line(load: Any, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load(override)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  total_steps: 100", "  total_stepz: 100", r"toy\.yaml:13: train\.total_stepz: unknown key"),
        (
            "width: 4",
            "width: wide",
            r"toy\.yaml:9: policy\.width: expected a valid integer.*got 'wide' \(str\)",
        ),
        (
            "      weight: 2",
            "      weight: -2",
            r"toy\.yaml:5: data\.sources\[0\]\.weight: expected greater than 0 or expected 'rows', got -2",
        ),
        ("name: toy\n", "", r"toy\.yaml: name: is required and missing"),
        ("  total_steps: 100\n", "", r"toy\.yaml:12: train\.total_steps: is required and missing"),
        ("name: toy", "name: toy\nname: toy", r"toy\.yaml:2: name is given twice"),
        ("name: toy", "name: [toy", r"toy\.yaml:\d+: not YAML"),
    ],
)
def test_mistakes_in_a_file_name_the_line(
    load: Any, recipe_text: str, old: str, new: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load(text=recipe_text.replace(old, new))


def test_every_mistake_is_reported_at_once(load: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        load("train.total_stepz=3", "policy.widht=2", "seed=x")
    assert len(str(caught.value).split("\n")) == 3


def test_another_kind_replaces_a_plug_in_whole(load: Any) -> None:
    assert load("policy.kind=large", "policy.depth=3").policy.depth == 3
    assert load("policy={kind: large, depth: 3}").policy.depth == 3
    assert load("rollout.width=3").rollout.width == 3


def test_a_preset_on_the_command_line_replaces_the_update_rule_of_the_file() -> None:
    """Laid on one another, quickstart's surrogate would be trained beside the preset's, averaged as neither says."""
    file = find_recipe("quickstart")
    algo = Recipe.load(file, ("algo.preset=gspo", "algo.terms.policy.clip_high=0.001")).algo
    assert isinstance(algo, PolicyGradient)
    assert list(algo.terms) == ["policy"]
    assert algo.terms["policy"]["ratio"] == "sequence_geomean"
    assert algo.terms["policy"]["clip_high"] == 0.001
    assert algo.aggregate == "seq-mean-token-mean"
    again = Recipe.load(
        file, ("algo={kind: policy_gradient, preset: gspo, terms: {policy: {clip_high: 0.001}}}",)
    )
    assert again.algo == algo


@pytest.mark.parametrize(
    "alias", ["num_generations", "rollout.n", "n_samples_per_prompt", "actor_rollout_ref.rollout.n"]
)
def test_group_size_by_other_names(load: Any, alias: str) -> None:
    with pytest.warns(RecipeWarning, match=r"is read as train\.rollouts_per_prompt"):
        assert load(f"{alias}=4").train.rollouts_per_prompt == 4


def test_an_alias_has_the_precedence_of_the_place_it_is_in(load: Any) -> None:
    with pytest.warns(RecipeWarning, match="num_generations is read"):
        assert (
            load(
                "train.rollouts_per_prompt=2", text=f"num_generations: 4\n{ALIASED}"
            ).train.rollouts_per_prompt
            == 2
        )
    with pytest.raises(RecipeError, match="also given"):
        load("num_generations=4", "train.rollouts_per_prompt=2")


ALIASED = RECIPE_WITHOUT_POLICY + "policy: small\n"


def test_dump_loads_back_equal(load: Any) -> None:
    recipe = load("stages=[{until: 0.5, overrides: {algo.low: 0.3}}]")
    assert load(text=recipe.to_yaml()) == recipe
    assert Recipe.model_validate(recipe.dump()) == recipe


def test_stages_override_over_time(load: Any) -> None:
    recipe = load("stages=[{until: 0.1, overrides: {algo.low: 0.3, train.freeze: [vision]}},"
                  " {until: 0.5, overrides: {train.optimizer.lr: 0}}]")  # fmt: skip
    stages = {step: recipe.at(Progress(step=step, total_steps=100)) for step in (1, 10, 11, 50, 51, 100)}
    assert [stages[step].algo.low for step in stages] == [0.3, 0.3, 0.1, 0.1, 0.1, 0.1]
    assert [stages[step].train.freeze for step in (10, 11)] == [("vision",), ()]
    assert [stages[step].train.optimizer.lr for step in (11, 50, 51)] == [0, 0, 1e-6]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[{until: 0.5, overrides: {algo.lowe: 1}}]", "stages[0]: algo.lowe"),
        ("[{until: 0.5, overrides: {seed: 1}}]", "'seed' cannot change during a run"),
        ("[{until: 0.5, overrides: {policy.width: 1}}]", "cannot change during a run"),
        ("[{until: 0.5, overrides: {algo.kind: clip}}]", "cannot change during a run"),
        ("[{until: 0.5, overrides: {}}, {until: 0.4, overrides: {}}]", "rising fractions"),
        ("[{until: 1.5, overrides: {}}]", "less than or equal to 1"),
    ],
)
def test_stages_are_checked_when_the_recipe_is_loaded(load: Any, stages: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load(f"stages={stages}")


def test_yaml_numbers_and_words_mean_what_they_look_like(load: Any) -> None:
    assert load("train.optimizer.lr=5e-7").train.optimizer.lr == 5e-7
    assert load("monitor.words=[on, yes, no, wait]").monitor.words == ("on", "yes", "no", "wait")


def test_arithmetic_is_spelled_out(load: Any) -> None:
    recipe = load("train.rollouts_per_prompt=8", "train.minibatches_per_step=4")
    rows = dict(recipe.arithmetic())
    assert rows["rollouts per step"] == "16 prompts x 8 rollouts = 128"
    assert rows["optimiser steps per rollout batch"] == "4 of 32 rollouts"
    assert rows["in total"] == "100 steps, 1600 prompts, 12800 rollouts, 400 optimiser steps"
    assert "samples per epoch" not in rows  # files have yet to be opened
    assert dict(recipe.arithmetic(3200))["samples per epoch"] == "3200; 0.50 epochs"
    drawn = load("data.sources=[{name: embedded/*}]")
    assert dict(drawn.arithmetic())["samples per epoch"].startswith("unlimited")


def test_every_key_is_described_and_the_core_stays_small(plugins: None) -> None:
    found = leaves()
    assert all(leaf.doc for leaf in found), [leaf.key for leaf in found if not leaf.doc]
    assert len(found) <= 60 + len(LEAF_REASONS), (
        f"{len(found)} keys; give LEAF_REASONS an entry for each above 60"
    )
    assert set(LEAF_REASONS) <= {leaf.key for leaf in found}


def test_keys_of_plug_ins_are_listed_below_them(plugins: None) -> None:
    keys = {leaf.key: leaf for leaf in leaves(plugins=True)}
    assert keys["policy(small).width"].doc == "units of a layer"
    assert "policy(small).kind" not in keys
    assert "small" in keys["policy"].doc


def test_missing_file(tmp_path: Any) -> None:
    with pytest.raises(RecipeError, match=r"gone\.yaml cannot be read"):
        Recipe.load(tmp_path / "gone.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match="mapping of keys"):
        Recipe.load(tmp_path / "list.yaml")


def test_resolved_yaml_is_complete(load: Any) -> None:
    written = yaml.safe_load(load().to_yaml())
    assert written["train"]["optimizer"]["clip_norm"] == 1.0
    assert written["data"]["sources"][1]["adapter"]["iou"] == "dynamic"
