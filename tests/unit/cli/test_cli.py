"""The command line: exit codes, one clear message per error, what each command hands on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from triune.cli import main
from triune.core.recipe import Recipe

RECIPE = """\
# A toy.
name: toy
data: {sources: [{name: mine, path: PATH, heldout_fraction: 0.5}]}
policy: language
rollout: native
algo: policy_gradient
train: {total_steps: 10, prompts_per_step: 4}
"""

ROW = (
    '{"id": "a/%d", "source": "mine", "task": "counting", "media": ["picture.png"], "truth": TRUTH,'
    ' "messages": [{"role": "user", "content": [{"type": "image", "media": 0}, {"type": "text", "text": "How many? %d"}]}],'
    ' "checks": [{"verifier": "count"}]}\n'
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 32), "green").save(tmp_path / "picture.png")
    (tmp_path / "rows.jsonl").write_text("".join(ROW.replace("TRUTH", str(i)) % (i, i) for i in range(20)))
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE.replace("PATH", str(tmp_path / "rows.jsonl")))
    return path


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for the training loop, so that these tests need no model."""
    seen = SimpleNamespace(error=None)

    def train(recipe: Recipe, run_dir: Path, resume: bool = False) -> None:
        seen.recipe, seen.run_dir, seen.resume = recipe, run_dir, resume
        if seen.error:
            raise seen.error

    module = ModuleType("triune.loop")
    module.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triune.loop", module)
    return seen


def test_train_hands_the_resolved_recipe_to_the_loop(
    recipe: Path, loop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", recipe, "train.total_steps=20", "seed=4", "--run-dir", tmp_path / "run") == 0
    assert (loop.recipe.train.total_steps, loop.recipe.seed) == (20, 4)
    assert (loop.run_dir, loop.resume) == (tmp_path / "run", False)


def test_train_resumes_by_the_runs_own_recipe(recipe: Path, loop: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(Recipe.load(recipe, ["seed=9"]).to_yaml())
    assert run("train", "--resume", tmp_path / "run") == 0
    assert (loop.recipe.seed, loop.run_dir, loop.resume) == (9, tmp_path / "run", True)
    assert run("train", "train.total_steps=30", "--resume", tmp_path / "run") == 0
    assert loop.recipe.train.total_steps == 30
    assert run("train", recipe, "--resume", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "no longer the recipe" in said
    assert "seed: was 9, now" in said
    assert run("train", "--resume", tmp_path) == 2
    assert "is not a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.total_stepz=1"], "did you mean 'total_steps'?"),
        (["policy=langage"], "did you mean 'language'?"),
        (["nonsense"], "is not an override"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_two(
    recipe: Path, overrides: list[str], message: str, capsys: Any
) -> None:
    assert run("train", recipe, *overrides) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_an_interrupted_run_ends_with_130(recipe: Path, loop: Any, capsys: Any) -> None:
    loop.error = KeyboardInterrupt("stopped after step 3; continue with: triune train --resume runs/x")
    assert run("train", recipe) == 130
    assert "continue with" in capsys.readouterr().err


def test_other_errors_are_not_hidden(recipe: Path, loop: Any) -> None:
    loop.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        main(["train", str(recipe)])


def test_an_alias_warns_on_one_line(recipe: Path, loop: Any, capsys: Any) -> None:
    assert run("train", recipe, "num_generations=4") == 0
    assert "warning: command line (num_generations)" in capsys.readouterr().err


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Two sources of saved answers: 1 of 2 right, and 2 of 2."""
    from triune.core.sample import Check
    from triune.core.verdict import Outcome
    from triune.evaluation.predictions import Prediction, rejudge, write
    from triune.verify.judge import Judge

    rows = [
        Prediction(
            id=f"{source}/{i}",
            source=source,
            task="counting",
            suite={"kind": "rows"},
            prompt="How many?",
            response=f"<answer>{said}</answer>",
            truth=3,
            checks=(Check(verifier="count"),),
            outcome=Outcome(id=f"{source}/{i}"),
            status="ok",
        )
        for source, answers in {"a": (3, 4), "b": (3, 3)}.items()
        for i, said in enumerate(answers)
    ]
    write(tmp_path / "predictions.jsonl", rejudge(rows, Judge(workers=0)))
    return tmp_path / "predictions.jsonl"


def test_eval_prints_a_table_with_intervals(predictions: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("eval", "--from", predictions, "--json", tmp_path / "figures.json") == 0
    printed = capsys.readouterr().out
    assert "every verdict is the same" in printed
    assert "0.500 [0.095, 0.905]" in printed  # Wilson, 1 of 2
    assert [line.split()[-1] for line in printed.splitlines() if "mean of sources" in line] == ["0.750"]
    held = json.loads((tmp_path / "figures.json").read_text())
    assert held["sources"]["a"]["correct"] == {
        "value": 0.5,
        "n": 2,
        "low": pytest.approx(0.0945, abs=1e-4),
        "high": pytest.approx(0.9055, abs=1e-4),
        "interval": "wilson",
    }


def test_eval_notices_a_verdict_that_is_no_longer_the_same(predictions: Path, capsys: Any) -> None:
    predictions.write_text(predictions.read_text().replace("<answer>4<", "<answer>3<"))
    assert run("eval", "--from", predictions) == 1
    assert "1 of 4 verdicts differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a model"),
        (["nano"], "nano is no checkpoint"),
        (["nano", "--data", "x.json"], "Give --task"),
        (["nano", "policy.dtype=bfloat16"], "Give --task"),
        (["nano", "suites.yaml", "--task", "ocr"], "one file of suites, or --task"),
        (["nano", "suites.yaml", "--data", "x.json"], "belong to --task"),
        (["nano", "gone.yaml"], "gone.yaml cannot be read"),
        (["nano", "--task", "detektion", "--data", "x.json"], "did you mean 'detection'?"),
        (["nano", "subsett=single", "--task", "detection", "--data", "x"], "did you mean 'subset'?"),
        (["nano", "--task", "mmmu", "--data", "x.json"], "out: is required"),
        (["nano", "--from", "x.jsonl"], "--from needs no model"),
        (["--from", "gone.jsonl"], "gone.jsonl cannot be read"),
    ],
)
def test_a_mistake_in_an_evaluation_is_one_message(arguments: list[str], message: str, capsys: Any) -> None:
    assert run("eval", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_data_show_writes_a_contact_sheet(recipe: Path, tmp_path: Path) -> None:
    assert run("data", "show", recipe, "--samples", "5", "--out", tmp_path / "sheet.png") == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 900


def test_data_check_passes_and_fails(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("data", "check", recipe) == 0
    assert "passed" in capsys.readouterr().out
    rows = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(rows + ROW.replace("TRUTH", '"many"') % (50, 50))
    assert run("data", "check", recipe) == 1
    printed = capsys.readouterr().out
    assert "error: routing: 1" in printed
    assert "a/50" in printed


def test_data_check_reports_skipped_rows(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    rows = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(
        rows + ROW.replace("picture", "gone").replace("TRUTH", "1") % (50, 50)
    )
    assert run("data", "check", recipe) == 2
    assert "gone.png" in capsys.readouterr().err
    assert run("data", "check", recipe, "data.on_bad_row=skip") == 0
    assert "skipped in mine: 1 rows, missing_media" in capsys.readouterr().out


def test_recipes_are_listed_and_shown(capsys: Any) -> None:
    assert run("recipes") == 0
    listed = capsys.readouterr().out
    assert "quickstart" in listed
    assert "grpo " in listed
    assert run("recipes", "show", "quickstart") == 0
    assert "total_steps: " in capsys.readouterr().out
    assert run("recipes", "show", "quikstart") == 2
    assert "did you mean 'quickstart'" in capsys.readouterr().err


def test_a_preset_is_shown_with_its_terms_views_equation_and_sources(capsys: Any) -> None:
    assert run("recipes", "show", "grpo") == 0
    shown = capsys.readouterr().out
    for text in (
        "2402.03300",
        "ppo_clip",
        "clip_low: 0.2",
        "needs the views: old",
        "seq-mean-token-mean",
        "clip(rho, 1 - .2, 1 + .2) A",
    ):
        assert text in shown


def test_help_lists_every_key(capsys: Any) -> None:
    assert run("train", "--help") == 0
    printed = capsys.readouterr().out
    for key in ("train.optimizer.lr ", "data.sources[].path", "policy(language).path", "stages[].until"):
        assert key in printed


@pytest.mark.parametrize(
    "arguments", [[], ["trian"], ["data"], ["data", "shwo", "x"], ["train", "--rundir", "x"]]
)
def test_wrong_usage(arguments: list[str], capsys: Any) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().err
