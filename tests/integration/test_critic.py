"""PPO and VL-DAC from a recipe to a checkpoint, over a vision-language policy in a world of two turns; and learning with a
critic against learning without what it says."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from triune.core.errors import RecipeError
from triune.core.loading import tree
from triune.core.recipe import Recipe
from triune.core.sample import Check, EnvSpec, Media
from triune.export import export
from triune.loop import Loop, train
from triune.monitor.store import Store
from triune.policy.critic import FILE
from triune.testing.actor import grid_samples
from triune.testing.models import picture, sample, write

WORLD = '''
"""Two turns: an answer is worth its length; then a picture is shown, and the second answer is worth its letters."""

from triune.core.sample import Media
from triune.envs import ENVIRONMENTS, Observation, Turn
from triune.testing.models import picture


@ENVIRONMENTS.register("two_turns")
class TwoTurns:
    def reset(self, sample, seed):
        self.turn = 0

    def step(self, text):
        self.turn += 1
        paid = (("gain", (len(text) % 7) / 7),)
        if self.turn == 2 and len(text) % 2:
            return Turn(events=paid, ending="stop_env")
        return Turn(Observation(("Look", picture(seed=self.turn))), events=paid)

    def close(self):
        pass
'''


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def seen(name: str, medium: Media) -> Any:
    one = sample(name, medium, env="two_turns", text=f"How many circle {name}?")
    return one.model_copy(
        update={"checks": (Check(verifier="env/gain"),), "env": EnvSpec(name="two_turns"), "source": "world"}
    )


def vlm_recipe(folder: Path, preset: str, **more: Any) -> Recipe:
    rows, world = folder / "rows.jsonl", folder / "world.py"
    if not rows.exists():
        rows.write_text("\n".join(seen(f"s{i}", picture(seed=10 + i)).model_dump_json() for i in range(4)))
        world.write_text(WORLD)
        write("qwen", folder / "base")
        said = folder / "base" / "generation_config.json"
        config = json.loads(said.read_text())
        config["eos_token_id"] = list(range(0, 300, 2))  # a babbler that ends its turns
        said.write_text(json.dumps(config))
    critic = {"level": "step", "detach": True} if preset == "vl-dac" else {"level": "token", "hidden": 8}
    plan = {
        "name": preset,
        "plugins": [str(world)],
        "data": {"sources": [{"name": "world", "path": str(rows)}]},
        "policy": {
            "kind": "language",
            "path": str(folder / "base"),
            "attention": "eager",
            "critic": critic,
            "lora": None if preset == "ppo" else {"rank": 2},
            "token_budget": 300,
        },
        "rollout": {"kind": "native", "max_tokens": 6, "max_turns": 2},
        "algo": {"kind": "policy_gradient", "preset": preset},
        "train": {
            "total_steps": 2,
            "prompts_per_step": 4,
            "rollouts_per_prompt": 2,
            "minibatches_per_step": 2,
            "checkpoint_every": 1,
            "optimizer": {"lr": 1e-3, "lr_by_module": {"critic": 1e-2}, "warmup_fraction": 0.0},
        },
        "judge": {"workers": 0},
        "monitor": {"sinks": []},
    }
    return Recipe.model_validate({**plan, **more})


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    files = sorted((run / "checkpoints" / f"step-{step:06d}" / "model").glob("*.safetensors"))
    return {f"{file.name}/{name}": t for file in files for name, t in load_file(file).items()}


@pytest.mark.parametrize("preset", ["ppo", "ppo-trl", "vl-dac"])
def test_a_preset_runs_resumes_and_is_exported_without_its_head(preset: str, tmp_path: Path) -> None:
    plan = vlm_recipe(tmp_path, preset)
    train(plan, tmp_path / "whole")
    with Loop(plan, tmp_path / "cut") as loop:
        scored = loop.step()
        loop.save()
        loop.step()  # lost: what follows starts from the checkpoint
    assert {o.trajectory.ending for o in scored} >= {"max_turns"}
    train(plan, tmp_path / "cut", resume=True)
    whole, cut = weights(tmp_path / "whole", 2), weights(tmp_path / "cut", 2)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    first = weights(tmp_path / "whole", 1)
    head = {name for name in whole if name.startswith(FILE)}
    assert head
    assert any(not torch.equal(first[name], whole[name]) for name in head)
    moved = any(not torch.equal(first[name], whole[name]) for name in whole.keys() - head)
    assert moved is (preset != "vl-dac")  # whose policy waits for two steps
    states = [torch.load(tmp_path / run / "checkpoints/step-000002/learner.pt") for run in ("whole", "cut")]
    assert all(
        torch.equal(states[0]["adamw"]["state"][i][key], states[1]["adamw"]["state"][i][key])
        for i in states[0]["adamw"]["state"]
        for key in ("exp_avg", "exp_avg_sq")
    )
    with Store(tmp_path / "whole", readonly=True) as store:
        names = set(store.names())
    assert {"value", "return", "value_error", "value_clip_frac", "explained_variance"} <= names
    folder, _ = export(tmp_path / "whole")
    assert not list(folder.rglob(FILE))
    assert not any("critic" in name for file in folder.glob("*.safetensors") for name in load_file(file))
    if preset != "ppo":
        adapter, _ = export(tmp_path / "whole", adapter=True)
        assert not list(adapter.rglob(FILE))


def test_a_run_does_not_resume_without_its_head(tmp_path: Path) -> None:
    plan = vlm_recipe(tmp_path, "ppo")
    with Loop(plan, tmp_path / "run") as loop:
        loop.step()
        path = loop.save()
    (path / "model" / FILE).unlink()
    with Loop(plan, tmp_path / "run") as loop, pytest.raises(RecipeError, match="without a critic"):
        loop.restore(path)


# -- learning ------------------------------------------------------------------------------------------------------


def grid(folder: Path, name: str, **change: Any) -> Recipe:
    """PPO on the toy agent; `change` are keys of the recipe."""
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(one.model_dump_json() for one in grid_samples(32)))
    recipe = {
        "name": name,
        "data.sources": [{"name": "grid", "path": str(rows)}],
        "policy": "actor",
        "rollout": "grid",
        "algo": {"kind": "policy_gradient", "preset": "ppo"},
        "algo.advantage.gamma": 0.99,
        "algo.advantage.lam": 0.95,
        "train.total_steps": 20,
        "train.prompts_per_step": 16,
        "train.minibatches_per_step": 8,
        "train.optimizer": {"lr": 1e-2, "warmup_fraction": 0.0},
        "judge.workers": 0,
        "monitor": {"sinks": [], "rollouts_every": 0},
    }
    return Recipe.model_validate(tree({**recipe, **change}))


def curve(plan: Recipe, folder: Path) -> tuple[list[float], list[float]]:
    """Mean reward and explained variance of every step."""
    with Loop(plan, folder / plan.name) as loop:
        rewards = [
            statistics.fmean(one.verdict.reward or 0.0 for one in loop.step())
            for _ in range(plan.train.total_steps)
        ]
        explained = [point.mean for point in loop.monitor.store.series("explained_variance", by=())[()]]
    return rewards, explained


def test_the_policy_walks_and_the_critic_explains(tmp_path: Path) -> None:
    learned, explained = curve(grid(tmp_path, "ppo"), tmp_path)
    assert learned[0] < 0
    assert statistics.fmean(learned[-3:]) > 0.6
    # Advantages in the wrong hands teach nothing.
    shuffled = {"algo.advantage.kind": "shuffled_gae", "train.total_steps": 12}
    dealt, _ = curve(grid(tmp_path, "dealt", **shuffled), tmp_path)
    assert statistics.fmean(dealt[-3:]) < 0
    # A critic that does not learn explains ever less of what the policy has learnt to do.
    _, ignorant = curve(grid(tmp_path, "ignorant", **{"train.freeze": ["critic"]}), tmp_path)
    assert statistics.fmean(explained[-3:]) > statistics.fmean(ignorant[-3:]) + 0.15
    # With a warm-up the policy stays where it is for so long.
    waiting = {"algo.adjust.warmup": {"kind": "critic_warmup", "steps": 2}, "train.total_steps": 3}
    waited, _ = curve(grid(tmp_path, "waiting", **waiting), tmp_path)
    assert waited[0] == learned[0]
    assert waited[1] != learned[1]
