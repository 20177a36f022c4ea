"""benchmarks/ablations.py: what is run, what is not run again, and that the tables say what the runs' stores say."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from triune.core.errors import RecipeError, TriuneError
from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.data.mixture import Mixture
from triune.monitor.metric import Metric, scalar
from triune.monitor.store import Store

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ablations() -> ModuleType:
    return script("ablations")


class Trained:
    """In place of training: notes the command, and writes a store from which every figure is known beforehand."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str], folder: Path, log: Path) -> None:
        self.commands.append(list(command))
        assert list(command[:2]) == ["train", "quickstart"]
        recipe = Recipe.load(find_recipe("quickstart"), command[2:])  # every arm is a recipe
        sources = Mixture.of(recipe).sources
        boxes = {"detection": "detection", "grounding": "box_iou"}
        level = self.level(recipe)
        with Store(folder) as store:
            for step in range(1, recipe.train.total_steps + 1):
                metrics = [scalar("grad_skipped", 0)]
                metrics += [scalar(f"clip_frac/{side}", 0.01 * step) for side in ("low", "high")]
                for module in {"vision", "connector", "language"} - set(recipe.train.freeze):
                    layer = module if module == "connector" else f"{module}.0"
                    metrics.append(scalar("grad_norm/layer", step, layer=layer))
                    metrics.append(scalar("grad_norm", 2 * step, module=module))
                metrics.append(scalar("grad_norm", 3 * step, module="all"))
                for s in sources:
                    labels = {"source": s.name, "task": s.task}
                    # Only the first of the steps has groups without spread, and all of a format are alike.
                    metrics += [
                        scalar(
                            "frac_component_zero_std",
                            step == 1,
                            component=boxes.get(s.task, "math"),
                            **labels,
                        ),
                        scalar("frac_component_zero_std", 1, component="format_json", **labels),
                        scalar("frac_reward_zero_std", 0.5, **labels),
                    ]
                store.log_step(step, "train", metrics)
            held = [Metric.of("accuracy", [level, level], source=s.name, task=s.task) for s in sources]
            held += [
                scalar(f"verifier/{name}", level, source=s.name, task=s.task, component=boxes[s.task])
                for name in ("iou", "iou@75", "f1@75", "f1@50")
                for s in sources
                if s.task in boxes
            ]
            store.log_step(recipe.train.total_steps, "eval", held)
        (folder / "checkpoints").mkdir()

    @staticmethod
    def level(recipe: Recipe) -> float:
        """Held-out accuracy: .1 for a step, .2 for all tasks, .1 more off-policy or for what else is trained; a seed adds
        its hundredth."""
        more = recipe.train.minibatches_per_step > 1 or "vision" not in recipe.train.freeze
        return 0.1 * (1 + (recipe.train.total_steps > 1) + more) + 0.01 * recipe.seed


@pytest.fixture
def trained(ablations: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Trained:
    stub = Trained()
    monkeypatch.setattr(ablations, "train", stub)
    return stub


def test_tables_and_results_come_from_the_stores(
    ablations: ModuleType, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results" / "ablations.json"
    ablations.main(steps=4, jobs=1, out=tmp_path / "runs", json_file=file)
    assert len(trained.commands) == 3 * (1 + 5 + 4 + 8)  # arms that two questions share are run once
    printed = capsys.readouterr().out
    assert "| off-policy | 0.310 (0.300, 0.310, 0.320) | +0.100 [+0.100, +0.100] | 0.31 |" in printed
    # The first of the four steps was without spread.
    assert "| fixed .99 | 0.00 (0.00, 0.00, 0.00) | 0.75 (0.75, 0.75, 0.75) | 0.210 (0.200," in printed
    assert "| vision.0 | - | 2.500 | 2.500 |" in printed
    assert "| language.0 | 2.500 | - | 2.500 |" in printed
    assert "| **language** | 5.000 | - | 5.000 |" in printed
    assert "| **all** | 7.500 | 7.500 | 7.500 |" in printed
    assert "| ocr | 0.110 | 0.210 (0.200, 0.210, 0.220) |" in printed
    found = json.loads(file.read_text())
    assert {"date", "hardware", "versions", "scale", "commands", "differences", "runs"} <= set(found)
    assert found["layers"] == ["vision.0", "connector", "language.0"]
    assert found["differences"]["both - joint"]["mean"] == pytest.approx(0.1)
    assert found["runs"]["joint"]["2"]["accuracy"]["math"] == pytest.approx(0.22)
    assert found["runs"]["joint"]["2"]["heldout_samples"] == 2 * 18
    assert found["runs"]["joint"]["2"]["clipped"] == pytest.approx(0.05)
    assert found["commands"]["off-policy"].startswith("triune train quickstart train.total_steps=4 ")
    assert not list(tmp_path.glob("runs/*/checkpoints"))

    picture = tmp_path / "figure.png"
    script("ablations_figure").main(file, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_only_what_is_missing_or_of_another_scale_is_run(
    ablations: ModuleType, trained: Trained, tmp_path: Path
) -> None:
    def go(**asked: Any) -> int:
        before = len(trained.commands)
        ablations.main(**{"only": ("policy",), "seeds": (0,), "steps": 2, "jobs": 1, "out": tmp_path} | asked)
        return len(trained.commands) - before

    assert go() == 3
    assert go() == 0
    assert go(seeds=(0, 1)) == 3
    (tmp_path / "joint-1" / "finished.json").unlink()  # as if it had been killed
    assert go(seeds=(0, 1)) == 1
    assert go(steps=3) == 3


def test_a_specialist_sees_its_tasks_share_of_the_joint_run(ablations: ModuleType) -> None:
    arms = ablations.arms(ablations.Scale(100, 16, 100))
    joint = Recipe.load(find_recipe("quickstart"), arms["joint"])
    mixture = Mixture.of(joint)
    drawn = [mixture.sources[mixture.locate(number)[0]].task for number in range(100 * 16)]
    for task in ablations.TASKS:
        alone = Recipe.load(find_recipe("quickstart"), arms[f"specialist {task}"])
        assert alone.train.total_steps == joint.train.total_steps
        assert {s.task for s in Mixture.of(alone).sources} == {task}
        assert alone.train.prompts_per_step * 100 == pytest.approx(drawn.count(task), rel=0.02)


def test_commands_are_shown_without_running(
    ablations: ModuleType, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablations.main(only=("iou",), seeds=(3,), out=tmp_path / "runs", show=True)
    shown = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("triune train quickstart")
    ]
    assert len(shown) == 6
    assert all(line.endswith("seed=3") for line in shown)
    assert trained.commands == []
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_names_its_output(ablations: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(TriuneError, match=r"failed; its output is in .*joint-0\.log"):
        ablations.run("joint", 0, ["train.total_stepz=1"], tmp_path)
    assert "did you mean 'total_steps'" in (tmp_path / "joint-0.log").read_text()
    with pytest.raises(RecipeError, match="multiple of 8"):
        ablations.main(prompts=12, out=tmp_path)


def test_a_run_in_truth(ablations: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ablations.arms(ablations.Scale(2, 16, 1))["specialist counting"]
    first = ablations.run("specialist counting", 0, overrides, tmp_path)
    assert 0 <= first["informative"] <= 1
    assert set(first["accuracy"]) == {"counting"}
    assert first["heldout_samples"] == 2
    assert {"language.0", "language.3"} <= set(first["grad_norm"])
    monkeypatch.delattr(ablations, "train")
    assert ablations.run("specialist counting", 0, overrides, tmp_path) == first
