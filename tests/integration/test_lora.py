"""Adapters learn while their base stays as it is, and an objective can ask for the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
import torch

from triune.algo.objective import TermResult
from triune.algo.options import TERMS, TermOptions
from triune.algo.types import Batch, Evaluated
from triune.core.recipe import Recipe
from triune.loop import Loop
from triune.monitor.metric import Metric

ROOT = Path(__file__).parents[2]


def base_hash(loop: Loop) -> str:
    """sha256 over every weight that is not an adapter's."""
    digest = hashlib.sha256()
    for name, parameter in sorted(loop.family.model.named_parameters()):  # type: ignore[attr-defined]
        if "lora_" not in name:
            digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def test_adapters_raise_the_reward_and_the_base_does_not_move(tmp_path: Path) -> None:
    recipe = Recipe.load(
        ROOT / "recipes" / "quickstart.yaml",
        (
            "policy.lora={rank: 8, alpha: 16}",
            "data.sources=[{name: embedded/ocr/*}]",
            "data.heldout_per_source=0",
            "train.total_steps=10",
            "train.prompts_per_step=10",
            "train.eval_every=0",
            "train.optimizer={lr: 2.0e-3, schedule: constant}",
            "monitor.sinks=[]",
            "monitor.rollouts_every=0",
            "judge.workers=0",
        ),
    )
    with Loop(recipe, tmp_path / "run") as loop:
        before = base_hash(loop)
        rewards = []
        for _ in range(recipe.train.total_steps):
            scored = loop.step()
            rewards.append(sum(one.verdict.reward or 0.0 for one in scored) / len(scored))
        assert base_hash(loop) == before
        held = sum(p.numel() for g in loop.update.optimizer.adamw.param_groups for p in g["params"])  # type: ignore[attr-defined]
        assert held < 0.1 * sum(p.numel() for p in loop.family.model.parameters())  # type: ignore[attr-defined]
    first, last = sum(rewards[:3]) / 3, sum(rewards[-3:]) / 3
    print(f"{first:.3f} -> {last:.3f}")
    assert last >= first + 0.1


class Distance(TermOptions):
    """The mean squared distance of log-probs from the reference: a term as one that needs it would be."""

    kind: Literal["distance"] = "distance"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference"})

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        gap = current.logp - views["reference"].logp
        assert not views["reference"].logp.requires_grad
        assert batch.weight is not None
        return TermResult((batch.weight * gap.square()).sum(), [Metric.of("distance", gap.detach().tolist())])


def test_an_objective_can_ask_for_the_reference(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TERMS._items, "distance", Distance)
    terms = "algo.terms=[{kind: ppo_clip}, {kind: distance, coef: 0.1}]"
    recipe = Recipe.load(recipe_file, (terms, "policy.lora={rank: 4}"))
    with Loop(recipe, tmp_path / "run") as loop:
        loop.step()
        with torch.no_grad():
            for parameter in loop.family.modules()["language"].parameters():
                parameter.add_(0.02)
        loop.step()
        found = loop.monitor.store.series("distance", by=())[()]
    assert found[0].max == found[0].min == 0  # training starts at the reference
    assert max(abs(found[1].min), found[1].max) > 1e-3
