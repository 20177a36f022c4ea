"""A claim about learning is tested by learning: the shipped policy, twenty steps, and credit shuffled as the control."""

from __future__ import annotations

from pathlib import Path

import pytest

from triune.core.recipe import Recipe
from triune.data.mixture import heldout
from triune.evaluate import accuracy
from triune.loop import Loop

ROOT = Path(__file__).parents[2]


def learn(tmp_path: Path, advantage: str) -> tuple[float, float]:
    """Held-out greedy accuracy before and after twenty steps on three sources."""
    recipe = Recipe.load(
        ROOT / "recipes" / "quickstart.yaml",
        (
            "data.sources=[{name: embedded/ocr/*}, {name: embedded/counting/shapes}]",
            "data.heldout_per_source=60",
            "train.total_steps=20",
            "train.prompts_per_step=12",
            "train.optimizer.lr=2e-4",
            "train.optimizer.schedule=constant",
            f"algo.advantage={{kind: {advantage}}}",
            "monitor.sinks=[]",
            "monitor.rollouts_every=0",
            "judge.workers=0",
        ),
    )
    with Loop(recipe, tmp_path / advantage) as loop:
        samples = [s for many in heldout(recipe).values() for s in many]
        before = loop.evaluate("eval-before", samples)
        loop.run()
        after = loop.evaluate("eval-after", samples)
    return tuple(sum(map(accuracy, scored)) / len(scored) for scored in (before, after))  # type: ignore[return-value]


@pytest.mark.parametrize("advantage", ["group", "shuffled_group"])
def test_reward_rises_and_only_where_credit_goes_to_its_own_rollout(tmp_path: Path, advantage: str):
    before, after = learn(tmp_path, advantage)
    print(f"{advantage}: {before:.3f} -> {after:.3f}")
    if advantage == "group":
        assert after >= before + 0.1
    else:
        assert after <= before + 0.03
