"""A claim about learning is tested by learning: the shipped policy, twenty steps, and credit shuffled as the control."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from triune.core.recipe import Recipe
from triune.data.mixture import heldout
from triune.evaluate import accuracy
from triune.loop import Loop

ROOT = Path(__file__).parents[2]


def recipe(advantage: str) -> Recipe:
    return Recipe.load(
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


def heldout_accuracy(loop: Loop) -> float:
    """Greedy, over the held-out samples of the three sources."""
    samples = [sample for many in heldout(loop.recipe).values() for sample in many]
    scored = loop.evaluate("eval", samples)
    return sum(map(accuracy, scored)) / len(scored)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The shipped policy's accuracy, where both begin."""
    torch.set_num_threads(1)
    with Loop(recipe("group"), tmp_path_factory.mktemp("before")) as loop:
        return heldout_accuracy(loop)


@pytest.mark.parametrize("advantage", ["group", "shuffled_group"])
def test_reward_rises_and_only_where_credit_goes_to_its_own_rollout(
    tmp_path: Path, before: float, advantage: str
):
    with Loop(recipe(advantage), tmp_path) as loop:
        loop.run()
        after = heldout_accuracy(loop)
    print(f"{advantage}: {before:.3f} -> {after:.3f}")
    if advantage == "group":
        assert after >= before + 0.1
    else:
        assert after <= before + 0.03
