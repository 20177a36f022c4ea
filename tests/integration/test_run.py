"""Whole runs: stopping cleanly, refusing to start wrong, counting what is skipped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from triune.core.errors import DataError, ParityError, RecipeError
from triune.core.recipe import Recipe
from triune.loop import Loop, train
from triune.monitor.store import Store
from triune.train import checkpoint


def weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / f"step-{step:06d}" / "model" / "model.safetensors")


def test_frozen_modules_do_not_move(recipe_file: Path, tmp_path: Path):
    train(Recipe.load(recipe_file, ("train.total_steps=2",)), tmp_path / "run")
    before = load_file(Path(Recipe.load(recipe_file).policy.path) / "model.safetensors")  # type: ignore[attr-defined]
    after = weights(tmp_path / "run", 2)
    frozen = [k for k in before if "vision_model" in k or "connector" in k]
    moved = [k for k in before if "text_model.layers" in k]
    assert frozen
    assert all(torch.equal(before[k], after[k]) for k in frozen)
    assert any(not torch.equal(before[k], after[k]) for k in moved)


def test_a_run_spells_out_its_batch_arithmetic(recipe_file: Path, tmp_path: Path):
    with Loop(Recipe.load(recipe_file), tmp_path / "run") as loop:
        loop.check()
        said = [str(event.detail["message"]) for event in loop.monitor.store.events("arithmetic")]
    assert "rollouts per step: 4 prompts x 4 rollouts = 16" in said


def test_ctrl_c_ends_with_a_checkpoint_and_resume_goes_on(recipe_file: Path, tmp_path: Path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "triune.cli", "train", str(recipe_file), "--run-dir", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "train.total_steps=500", "train.checkpoint_every=0"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.sqlite").exists() and _steps(run) >= 2:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "--resume" in output
    step = int(checkpoint.latest(run).name.removeprefix("step-"))
    assert 2 <= step < 500
    with Loop(Recipe.load(run / "recipe.yaml"), run) as loop:
        loop.restore(checkpoint.latest(run))
        loop.step()
        assert loop.done == step + 1


def _steps(run: Path) -> int:
    try:
        with Store(run, readonly=True) as store:
            return max(store.steps("train"), default=0)
    except Exception:  # the other process is just creating it
        return 0


def test_a_run_refuses_to_start_blind(recipe_file: Path, tmp_path: Path):
    with Loop(Recipe.load(recipe_file), tmp_path / "run") as loop:
        pictures = loop.family.pictures  # type: ignore[attr-defined]
        see = pictures.features
        pictures.features = lambda hashes: {k: torch.zeros_like(v) for k, v in see(hashes).items()}
        with pytest.raises(ParityError):
            loop.check()


def test_a_run_does_not_overwrite_another(recipe_file: Path, tmp_path: Path):
    recipe = Recipe.load(recipe_file, ("train.total_steps=1",))
    train(recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match="already holds a run"):
        train(recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match="nothing to resume"):
        train(recipe, tmp_path / "nowhere", resume=True)


def test_a_prompt_longer_than_the_window_stops_the_run_before_compute(recipe_file: Path, tmp_path: Path):
    with (
        Loop(Recipe.load(recipe_file, ("policy.window=20",)), tmp_path / "run") as loop,
        pytest.raises(DataError, match=r"counting|grounding"),
    ):
        loop.check()


@pytest.fixture
def rows_with_a_bad_one(tmp_path: Path) -> Path:
    """Six stored rows; the picture of one has a sound header and damaged pixels, which only decoding can tell."""
    from triune.core.sample import Media
    from triune.data.embedded import SOURCES

    lines = []
    for index in range(6):
        sample = SOURCES["counting/shapes"].draw(index, 0, "train")
        if index == 3:
            damaged = sample.media[0].read()
            damaged = damaged[: len(damaged) // 2]
            sample = sample.model_copy(update={"media": (Media.from_bytes(damaged),)})
        lines.append(sample.model_copy(update={"id": f"row-{index}"}).model_dump_json())
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def stored_rows(recipe_file: Path, path: Path, on_bad_row: str) -> Recipe:
    return Recipe.load(
        recipe_file,
        (
            f"data.sources=[{{name: mine, path: {path}}}]",
            f"data.on_bad_row={on_bad_row}",
            "train.total_steps=3",
            "train.eval_every=0",
        ),
    )


def test_a_picture_that_cannot_be_decoded_stops_the_run_and_names_the_sample(
    recipe_file: Path, rows_with_a_bad_one: Path, tmp_path: Path
):
    with pytest.raises(DataError, match=r"row-3|row [34]"):
        train(stored_rows(recipe_file, rows_with_a_bad_one, "error"), tmp_path / "run")


def test_looking_at_a_bad_row_before_the_run_does_not_count_it(
    recipe_file: Path, rows_with_a_bad_one: Path, tmp_path: Path
):
    with Loop(stored_rows(recipe_file, rows_with_a_bad_one, "skip"), tmp_path / "run") as loop:
        bad = next(s for s in map(loop.mixture.sources[0].sample, range(6)) if s.id.endswith("3"))
        loop.mixture.batch = lambda number, earlier=(): [bad, *(loop.mixture.draw(n) for n in range(6))]  # type: ignore[method-assign]
        loop.check()
        assert not loop.skipped
        loop.step()
        assert loop.skipped.total() >= 1


def test_a_bad_row_is_skipped_and_counted_only_where_the_recipe_allows_it(
    recipe_file: Path, rows_with_a_bad_one: Path, tmp_path: Path
):
    recipe = stored_rows(recipe_file, rows_with_a_bad_one, "skip")
    train(recipe, tmp_path / "run")
    with Store(tmp_path / "run", readonly=True) as store:
        counted = {p.step: p.mean for p in store.series("rows_skipped")[("counting/shapes",)]}
        assert store.steps("train") == [1, 2, 3]
    assert counted[3] >= 1
    # A resumed run goes on counting from where its checkpoint stood.
    with Loop(recipe, tmp_path / "run") as loop:
        loop.restore(tmp_path / "run" / "checkpoints" / "step-000002")
        assert loop.skipped["counting/shapes"] == counted.get(2, 0)
        loop.step()
        assert loop.skipped["counting/shapes"] == counted[3]
