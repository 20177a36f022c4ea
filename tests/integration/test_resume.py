"""A resumed run is the same run: killed at any moment, with adapters, in bfloat16; and it refuses to be another one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from triune.core.errors import RecipeError, VerdictFailureRate
from triune.core.recipe import Recipe
from triune.data.embedded import SOURCES
from triune.loop import Loop, train
from triune.monitor.store import Store
from triune.train import checkpoint

KILLED_AGAIN_AND_AGAIN = """
# One process imports everything and never trains; each of its children trains until it is killed.
import os, random, signal, sys, time
from pathlib import Path
import torch
from triune.core.recipe import Recipe
import triune.loop

torch.set_num_threads(1)
rng = random.Random(int(sys.argv[3]))
recipe, run = Recipe.load(sys.argv[1]), Path(sys.argv[2])
kills, writing = 0, 0
while True:
    child = os.fork()
    if child == 0:
        triune.loop.train(recipe, run, resume=(run / "recipe.yaml").exists())
        os._exit(0)
    # By turns at any moment, and while a checkpoint is written.
    partial, until = kills % 2 == 1, time.monotonic() + (rng.uniform(0.2, 1.5) if kills < 4 else 600)
    done = (0, 0)
    while not done[0]:
        time.sleep(0.005)
        done = os.waitpid(child, os.WNOHANG)
        if kills >= 4:
            continue
        if partial and list(run.glob("checkpoints/.*.partial")):
            time.sleep(rng.uniform(0, 0.03))
            break
        if not partial and time.monotonic() > until:
            break
    if done[0]:
        assert done[1] == 0, done
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
    writing += bool(list(run.glob("checkpoints/.*")))
print(kills, writing)
"""


def told(run: Path, kind: str = "resume") -> str:
    with Store(run, readonly=True) as store:
        return "\n".join(str(event.detail["message"]) for event in store.events(kind))


def same_run(a: Path, b: Path, step: int) -> None:
    """Weights and optimiser of the last checkpoint, and every rollout on the way, are equal in every bit."""
    folders = [run / "checkpoints" / f"step-{step:06d}" for run in (a, b)]
    files = [sorted(folder.glob("model/*.safetensors")) for folder in folders]
    assert [f.name for f in files[0]] == [f.name for f in files[1]] != []
    for one, other in zip(*files, strict=True):
        first, second = load_file(one), load_file(other)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[k], second[k]) for k in first)
    states = [torch.load(folder / "learner.pt") for folder in folders]
    assert equal(*({k: v for k, v in state.items() if k != "rng"} for state in states))
    assert all(s["adamw"]["state"] for s in states)
    with Store(a, readonly=True) as one, Store(b, readonly=True) as other:
        assert one.steps("train") == other.steps("train") == list(range(1, step + 1))
        assert {p: one.steps(p) for p in one.phases()} == {p: other.steps(p) for p in other.phases()}
        for number in one.steps("train"):
            pairs = zip(one.rollouts("train", number), other.rollouts("train", number), strict=True)
            for mine, its in pairs:
                assert (mine.id, mine.reward, mine.advantage) == (its.id, its.reward, its.advantage)
                assert np.array_equal(mine.ids, its.ids)
                assert np.array_equal(mine.logp, its.logp)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def test_killed_at_random_moments_it_is_still_the_same_run(recipe_file: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(recipe_file, ("train.checkpoint_every=1",))
    file = tmp_path / "every.yaml"
    file.write_text(recipe.to_yaml())
    train(recipe, tmp_path / "whole")
    command = [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(file), str(tmp_path / "cut"), "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills, writing = map(int, done.stdout.split()[-2:])
    assert kills >= 4
    assert writing >= 1
    same_run(tmp_path / "whole", tmp_path / "cut", 6)
    assert not list((tmp_path / "cut").rglob("*.partial"))


@pytest.mark.parametrize(
    "overrides",
    [
        ("policy.lora={rank: 4, modules: [language, connector]}",),
        ("policy.dtype=bfloat16",),
        ("policy.dtype=bfloat16", "policy.lora={rank: 4}", "train.freeze=[]"),
        ("rollout.refresh_every=3", "train.freeze=[]"),
        ("rollout.refresh_every=2", "rollout.dtype=bfloat16"),
    ],
    ids=["lora", "bfloat16", "lora-bfloat16", "stale", "stale-bfloat16"],
)
def test_adapters_low_precision_and_stale_rollouts_resume_bit_for_bit(
    recipe_file: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    recipe = Recipe.load(
        recipe_file, (*overrides, "train.total_steps=4", "train.checkpoint_every=1", "train.eval_every=0")
    )
    train(recipe, tmp_path / "whole")
    with Loop(recipe, tmp_path / "cut") as loop:
        for _ in range(2):
            loop.step()
        loop.save()
        loop.step()  # lost: what follows starts from the checkpoint
    train(recipe, tmp_path / "cut", resume=True)
    same_run(tmp_path / "whole", tmp_path / "cut", 4)
    assert "resumed" not in told(tmp_path / "cut")  # nothing changed, nothing is said


def test_a_run_killed_before_its_first_checkpoint_begins_again(recipe_file: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(recipe_file, ("train.total_steps=2", "train.eval_every=0"))
    train(recipe, tmp_path / "whole")
    with Loop(recipe, tmp_path / "cut") as loop:
        loop.check()
        from triune.core.provenance import save_provenance

        save_provenance(tmp_path / "cut", recipe)
        loop.step()
    (tmp_path / "cut" / "checkpoints" / ".step-000001.partial").mkdir(parents=True)
    with pytest.raises(RecipeError, match="already holds a run"):
        train(recipe, tmp_path / "cut")
    train(recipe, tmp_path / "cut", resume=True)
    same_run(tmp_path / "whole", tmp_path / "cut", 2)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    drawn = [SOURCES["counting/shapes"].draw(i, 0, "train") for i in range(8)]
    path.write_text(
        "".join(s.model_copy(update={"id": f"row-{i}"}).model_dump_json() + "\n" for i, s in enumerate(drawn))
    )
    return path


@pytest.fixture
def halfway(recipe_file: Path, rows: Path, tmp_path: Path) -> tuple[Path, Recipe]:
    """A run over eight stored rows, checkpointed after its first step of two."""
    recipe = Recipe.load(
        recipe_file,
        (
            f"data.sources=[{{name: mine, path: {rows}}}]",
            "data.heldout_per_source=0",
            "train.total_steps=2",
            "train.eval_every=0",
        ),
    )
    with Loop(recipe, tmp_path / "run") as loop:
        loop.step()
        loop.save()
    return tmp_path / "run", recipe


def resumed(run: Path, recipe: Recipe, *overrides: str) -> Loop:
    file = run / "again.yaml"
    file.write_text(recipe.to_yaml())
    with Loop(Recipe.load(file, overrides), run) as loop:
        loop.restore(checkpoint.latest(run))
    return loop


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=4", "seed: was 3, now 4"),
        ("train.prompts_per_step=8", "train.prompts_per_step: was 4, now 8"),
        ("policy.lora={rank: 4}", "policy.lora.rank: was None, now 4"),
        ("policy.dtype=bfloat16", "policy.dtype: was 'float32', now 'bfloat16'"),
        ("data.sources[0].name=yours", "source 'yours'"),
    ],
)
def test_another_recipe_is_refused_and_the_change_is_named(
    halfway: tuple[Path, Recipe], override: str, named: str
) -> None:
    with pytest.raises(RecipeError, match="not the run that was checkpointed at step 1") as error:
        resumed(*halfway, override)
    assert named in str(error.value)


def lose(rows: list[str]) -> list[str]:
    return rows[:-1]


def change(rows: list[str]) -> list[str]:
    row = json.loads(rows[5])
    return [*rows[:5], json.dumps({**row, "truth": 99}), *rows[6:]]


def swap(rows: list[str]) -> list[str]:
    return [rows[1], rows[0], *rows[2:]]


@pytest.mark.parametrize(
    ("edit", "named"),
    [(lose, "had 8 samples, now 7"), (change, "not the same ones"), (swap, "another order")],
)
def test_other_data_is_refused_and_the_source_is_named(
    halfway: tuple[Path, Recipe], rows: Path, edit: Any, named: str
) -> None:
    rows.write_text("\n".join(edit(rows.read_text().splitlines())) + "\n")
    with pytest.raises(RecipeError, match=rf"(?s)source 'mine' \(.*rows\.jsonl\): .*{named}"):
        resumed(*halfway)


def test_what_may_change_is_said_and_kept(halfway: tuple[Path, Recipe], rows: Path) -> None:
    run, recipe = halfway
    moved = rows.rename(rows.with_name("moved.jsonl"))  # the same rows, elsewhere
    resumed(run, recipe, "train.optimizer.lr=1e-4", f"data.sources[0].path={moved}")
    assert "train.optimizer.lr: was 0.001, now 0.0001" in told(run)
    assert "moved.jsonl" in told(run)
    assert Recipe.load(run / "recipe.yaml").train.optimizer.lr == 1e-4


def test_lost_curves_are_said(halfway: tuple[Path, Recipe]) -> None:
    run, recipe = halfway
    for file in (*run.glob("metrics.sqlite*"), *run.glob("rollouts/*/*")):
        file.unlink()
    resumed(run, recipe)
    assert "hold 0 steps of phase train (rollouts of 0) and held 1 (1)" in told(run)


def test_another_base_is_refused_for_adapters(recipe_file: Path, untaught: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(recipe_file, ("policy.lora={rank: 2}",))
    with Loop(recipe, tmp_path / "run") as loop:
        loop.save()
    other = "policy.path=nano"
    with pytest.raises(RecipeError, match="give the base that the run was started from"):
        resumed(tmp_path / "run", recipe, other)


def test_the_window_of_unjudged_rollouts_goes_on(recipe_file: Path, tmp_path: Path) -> None:
    """Failures before the kill count after it: the resumed run stops where the whole one would have."""
    from triune.core.verdict import Component, Verdict

    recipe = Recipe.load(recipe_file)
    part = Component(name="math", value=None, weight=1.0, status="timeout", verifier="math@1")
    lost = Verdict(id="r", reward=None, components=(part,))
    with Loop(recipe, tmp_path / "run") as loop:
        assert loop.judge.guard is not None
        loop.judge.guard.observe("mine", "s", [lost] * 30)
        loop.save()
    with Loop(recipe, tmp_path / "run") as loop:
        loop.restore(checkpoint.latest(tmp_path / "run"))
        assert loop.judge.guard is not None
        assert loop.judge.guard.counts["mine"]["timeout"] == 30
        loop.judge.guard.observe("mine", "s", [lost] * 19)
        with pytest.raises(VerdictFailureRate, match="50 of the last 50"):
            loop.judge.guard.observe("mine", "s", [lost])
