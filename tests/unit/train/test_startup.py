"""What forbids a run before compute is spent on it, and what is said when nothing does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from triune.core.errors import DataError, ParityError, RecipeError
from triune.core.recipe import Recipe
from triune.loop import Loop
from triune.testing.models import demand, picture, ragged, sample, talker, tiny
from triune.train.memory import GIB, Memory, saved_bytes
from triune.train.probe import probe


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe over a file of counting questions; `row` changes one of them by its number."""

    def make(*overrides: str, row: Callable[[int, dict[str, Any]], None] = lambda i, row: None) -> Recipe:
        rows = []
        for number in range(6):
            made = sample(f"s{number}", picture(seed=number), truth=number)
            values = json.loads(made.model_dump_json(exclude={"media"}))
            values |= {"source": "ab"[number % 2], "checks": [{"verifier": "count"}]}
            (tmp_path / f"{number}.png").write_bytes(made.media[0].read())
            values["media"] = [f"{number}.png"]
            row(number, values)
            rows.append(json.dumps(values))
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        spec = {
            "name": "startup",
            "data": {"sources": [{"name": "toy", "path": str(tmp_path / "rows.jsonl")}]},
            "policy": {"kind": "language", "path": "nano", "attention": "eager"},
            "rollout": {"kind": "native", "max_tokens": 6},
            "algo": {"kind": "policy_gradient", "terms": [{"kind": "ppo_clip"}]},
            "train": {
                "total_steps": 2,
                "prompts_per_step": 4,
                "rollouts_per_prompt": 4,
                "freeze": ["vision"],
            },
            "judge": {"workers": 0},
            "monitor": {"sinks": []},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(spec))
        return Recipe.load(tmp_path / "recipe.yaml", overrides)

    return make


def checked(recipe: Recipe, folder: Path) -> list[str]:
    with Loop(recipe, folder) as loop:
        loop.check()
        return [str(event.detail["message"]) for event in loop.monitor.store.events()]


def test_a_sound_run_says_what_it_found(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    said = "\n".join(checked(recipe(), tmp_path / "run"))
    assert "rewards: in 2 of 2 sources the truth earns full marks and an empty answer does not" in said
    assert "probe: log-probs of engine and learner differ by at most" in said
    assert "without any one picture they change by at least" in said
    assert "rewards differ in" in said
    assert "memory: about" in said
    unprobed = "\n".join(checked(recipe("train.probe=false"), tmp_path / "unprobed"))
    assert "rewards: in 2 of 2" in unprobed
    assert "engine and learner" not in unprobed


def test_a_truth_that_cannot_be_earned_forbids_the_run(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    def unlucky(number: int, row: dict[str, Any]) -> None:
        if row["source"] == "b":  # the box would have to be two things at once
            row["checks"] = [{"verifier": "count"}, {"verifier": "count", "name": "again", "weight": -1.0}]

    with pytest.raises(DataError, match=r"source 'b', sample 's1': the truth 1 earns 0 .* of 1"):
        checked(recipe(row=unlucky), tmp_path / "run")


def test_a_group_of_one_has_nothing_to_compare_with(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train.rollouts_per_prompt is 1.*every advantage would be 0"):
        checked(recipe("train.rollouts_per_prompt=1"), tmp_path / "run")


DPO = {"kind": "dpo", "pairs": {"choose": "best_worst"}}
SHOWN = {"shown": {"kind": "demonstrations"}}
LABELS = {"labels": {"kind": "recorded"}}


@pytest.mark.parametrize(
    ("algo", "rollout", "message"),
    [
        ({"advantage": {"kind": "rloo"}}, "native", r"is 1, but algo.advantage compares"),
        ({"advantage": {"kind": "reinforce_pp_baseline"}}, "native", r"is 1, but algo.advantage compares"),
        ({"advantage": {"kind": "token_baseline"}}, "native", r"is 1, but algo.advantage compares"),
        ({"advantage": {"kind": "rloo"}, "collect": SHOWN}, "native", r"is 1, but algo.advantage compares"),
        ({"advantage": {"kind": "raw"}, "terms": {"pair": DPO}}, "native", r"is 1, but algo.terms.pair compares"),
        ({"advantage": {"kind": "raw"}}, "recorded", r"draws nothing, but all of algo.terms \(ppo_clip\)"),
        ({"terms": {"e": {"kind": "imitation", "component": "policy"}}}, "native", r"no collector places any"),
        ({"advantage": {"kind": "raw"}, "shape": LABELS}, "native", r"algo.shape.labels reads the labels"),
    ],
)  # fmt: skip
def test_what_could_learn_nothing_does_not_start(
    recipe: Callable[..., Recipe], tmp_path: Path, algo: dict[str, Any], rollout: str, message: str
) -> None:
    plan = recipe("train.rollouts_per_prompt=1", "train.probe=false", f"rollout.kind={rollout}").dump()
    terms = {"ppo_clip": {"kind": "ppo_clip"}}
    plan["algo"] = {"kind": "policy_gradient", "terms": terms} | algo
    with pytest.raises(RecipeError, match=message):
        checked(Recipe.model_validate(plan), tmp_path / "run")


@pytest.mark.parametrize(
    "algo",
    [
        {"advantage": {"kind": "raw"}},
        {"advantage": {"kind": "rloo", "singleton": "raw"}},
        {"collect": {"shown": {"kind": "demonstrations", "only": True}}, "terms": [{"kind": "imitation"}]},
        {"advantage": {"kind": "raw"}, "terms": {"pair": DPO}, "collect": SHOWN},
    ],
)
def test_one_rollout_is_enough_for_what_compares_none(
    recipe: Callable[..., Recipe], tmp_path: Path, algo: dict[str, Any]
) -> None:
    plan = recipe("train.rollouts_per_prompt=1", "train.probe=false").dump()
    plan["algo"] = {"kind": "policy_gradient", **algo}
    checked(Recipe.model_validate(plan), tmp_path / "run")


def test_every_picture_must_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second picture of one sample of three is lost; the others are seen."""
    family = tiny("llava")
    samples = ragged()
    lost = next(s for s in samples if len(s.media) > 1)
    honest = family.pictures.features
    seen = {s.media[0].sha256 for s in samples if s.media}
    blind = {lost.media[1].sha256}

    def features(hashes: list[str]) -> dict[str, torch.Tensor]:
        return {h: torch.zeros_like(f) if h in blind - seen else f for h, f in honest(hashes).items()}

    add = family.pictures.add

    def adding(media: Any, owner: str) -> Any:
        if owner == f"{lost.id} (noise)" and media.size == lost.media[1].size:
            blind.add(media.sha256)
        return add(media, owner)

    monkeypatch.setattr(family.pictures, "features", features)
    monkeypatch.setattr(family.pictures, "add", adding)
    family._confirmed = True
    with pytest.raises(
        ParityError, match=rf"sample '{lost.id}': noise in place of picture \d changes no log-prob"
    ):
        probe(family, talker(family), samples, demand(rollouts=2))


def test_what_autograd_keeps_is_counted_once_and_without_parameters() -> None:
    layer = nn.Linear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    found = saved_bytes(lambda: (layer(x).relu() * 2).exp(), list(layer.parameters()))
    # x (for the weight), relu's output, exp's output: three tensors of 4 x 8 floats.
    assert found == 3 * 4 * 8 * 4


def test_what_certainly_does_not_fit_is_refused() -> None:
    memory = Memory(2 * GIB, GIB, 2 * GIB, per_token=1024, tokens=1 << 20, cache=GIB, available=4 * GIB)
    assert (memory.certain, memory.total) == (5 * GIB, 6 * GIB)
    with pytest.raises(RecipeError, match=r"take 5\.00 GiB, 4\.00 GiB are available: use a smaller model"):
        memory.refuse()
    tight = Memory(GIB, GIB, GIB, per_token=1024, tokens=1 << 21, cache=GIB, available=4 * GIB)
    tight.refuse()
    assert "this may not fit: lower policy.token_budget" in str(tight)
    sampling = Memory(GIB, GIB, GIB, per_token=1024, tokens=1 << 20, cache=9 * GIB, available=4 * GIB)
    assert sampling.total == 11 * GIB


@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_the_cache_of_a_token_is_what_the_model_keeps(kind: str) -> None:
    family = tiny(kind)
    ids = torch.zeros(1, 7, dtype=torch.long)
    kept = family.model.get_decoder()(inputs_embeds=family.embed(ids), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in kept.layers)
    assert held == 7 * family.cache_bytes


def test_what_is_kept_must_name_a_source_or_a_task(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"monitor\.keep: 'c' is no source.*Sources: a, b"):
        Loop(recipe("monitor.keep={a: 0.5, c: 0.5}"), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"monitor\.keep\.a"):
        recipe("monitor.keep={a: 1.5}")
    Loop(recipe("monitor.keep={a: 0.5}"), tmp_path / "run").monitor.close()
