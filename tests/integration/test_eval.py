"""`triune eval` with a model: nano on drawn files, a checkpoint on its own samples, and the page docs/evaluation.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from triune.cli import main
from triune.core.recipe import Recipe
from triune.data.mixture import heldout
from triune.evaluation.predictions import load, write
from triune.evaluation.run import Evaluation, Model, evaluate_heldout, evaluate_suites
from triune.evaluation.suites import SUITES
from triune.loop import train
from triune.monitor.store import Store
from triune.testing.questions import draw_benchmark

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_benchmark(folder, rows=12)
    return folder


def test_nano_answers_files_better_with_pictures_than_without(drawn: Path, tmp_path: Path) -> None:
    suites = [
        {"kind": "counting", "data": f"{drawn}/counting.csv", "prompt": "{question}", "answer": "boxed"},
        {"kind": "detection", "data": f"{drawn}/instances.json", "prompt": "Box every {labels}."},
    ]
    file = tmp_path / "suites.yaml"
    file.write_text(yaml.safe_dump({"suites": suites, "rollout": {"max_tokens": 96}, "workers": 0}))
    assert (
        run("eval", "nano", file, "--predictions", tmp_path / "seen.jsonl", "--json", tmp_path / "seen.json")
        == 0
    )
    assert run("eval", "nano", file, "--blind", "--json", tmp_path / "blind.json") == 0
    seen, blind = (
        json.loads((tmp_path / f"{name}.json").read_text())["sources"] for name in ("seen", "blind")
    )
    drop = blind["counting"]["drop"]
    accuracy = (seen["counting"]["accuracy"]["value"], blind["counting"]["accuracy"]["value"])
    assert blind["counting"]["seen"]["value"] == pytest.approx(accuracy[0])
    assert drop["value"] == pytest.approx(accuracy[0] - accuracy[1])
    assert drop["low"] <= drop["value"] <= drop["high"]
    assert "drop" not in seen["counting"]
    assert run("eval", "nano", file, "--blind", "--probe", "swapped") == 2
    assert run("eval", "nano", file, "--probe", "blnd") == 2
    assert seen["instances"]["map50_dataset"]["value"] > blind["instances"]["map50_dataset"]["value"] + 0.1
    assert seen["counting"]["mae"]["value"] <= blind["counting"]["mae"]["value"]
    rows = load(tmp_path / "seen.jsonl")
    assert len(rows) == 24
    # nano writes boxes in pixels of a picture that the processor left as it is: what was read is what was written.
    boxes = next(row for row in rows if row.source == "instances" and row.prediction)
    assert isinstance(boxes.prediction, list)
    assert json.dumps(boxes.prediction[0]["bbox_2d"][0]).rstrip("0").rstrip(".") in boxes.response  # type: ignore[index,call-overload]
    assert run("eval", "--from", tmp_path / "seen.jsonl", "--json", tmp_path / "again.json") == 0
    assert json.loads((tmp_path / "again.json").read_text())["sources"] == seen


def test_a_checkpoints_score_is_the_runs_score(recipe_file: Path, tmp_path: Path) -> None:
    """The run's own evaluation, the checkpoint's, and the exported samples through the plain model folder: one score."""
    recipe = Recipe.load(recipe_file, ("train.total_steps=1", "train.eval_every=1"))
    train(recipe, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000001"
    offline = evaluate_heldout(checkpoint)
    assert run("eval", tmp_path / "run", "--predictions", tmp_path / "cli.jsonl") == 0
    assert load(tmp_path / "cli.jsonl") == offline.rows
    samples = [sample for many in heldout(recipe).values() for sample in many]
    (tmp_path / "rows.jsonl").write_text("".join(sample.model_dump_json() + "\n" for sample in samples))
    again = evaluate_suites(
        str(checkpoint / "model"),
        Evaluation.of(
            None,
            ["policy.attention=eager", "rollout.max_tokens=8", "workers=0"],
            "rows",
            str(tmp_path / "rows.jsonl"),
        ),
    )
    assert [(row.id, row.response, row.value) for row in again.rows] == [
        (row.id, row.response, row.value) for row in offline.rows
    ]
    assert set(again.numbers()) == set(offline.numbers())
    # An exported folder brings its recipe: no option need be repeated.
    (checkpoint / "model" / "recipe.yaml").write_text((checkpoint / "recipe.yaml").read_text())
    exported = Model.find(str(checkpoint / "model"))
    assert (exported.policy.attention, exported.rollout.max_tokens) == ("eager", 8)  # type: ignore[attr-defined]
    assert exported.policy.path == str(checkpoint / "model")  # type: ignore[attr-defined]
    with Store(tmp_path / "run", readonly=True) as store:
        logged = {
            source: points[0].mean for (source,), points in store.series("accuracy", phase="eval").items()
        }
    assert logged == {source: figures["accuracy"].value for source, figures in offline.numbers().items()}


def test_a_model_with_a_frame_of_its_own_is_asked_in_it(drawn: Path) -> None:
    options = ["policy.frame=per_mille", "rollout.max_tokens=4", "workers=0"]
    report = evaluate_suites(
        "nano", Evaluation.of(None, options, "detection", f"{drawn}/instances.json"), samples=2
    )
    assert all("from 0 to 1000" in row.prompt for row in report.rows)
    assert {row.outcome.frame for row in report.rows} == {"per_mille"}


def test_answers_for_another_scorer_are_written_and_its_command_is_printed(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = next(drawn.glob("*.png")).name
    question = {
        "id": 0,
        "type": "text recognition en",
        "question": "Read.",
        "answers": ["a"],
        "image_path": picture,
    }
    (drawn / "OCRBench_v2.json").write_text(json.dumps([question]))
    out = tmp_path / "answers.json"
    arguments = ("--task", "ocrbench_v2", "--data", drawn / "OCRBench_v2.json", "--out", out)
    assert run("eval", "nano", "rollout.max_tokens=8", *arguments, "--predictions", tmp_path / "p.jsonl") == 0
    assert set(json.loads(out.read_text())[0]) == {*question, "predict"}
    assert f"eval.py --input_path {out}" in capsys.readouterr().out
    rows = load(tmp_path / "p.jsonl")
    assert rows[0].status == "unscored"
    write(tmp_path / "q.jsonl", rows)
    assert run("eval", "--from", tmp_path / "q.jsonl") == 0


def test_the_page_names_every_suite_and_every_option() -> None:
    page = DOCS.read_text()
    for kind in SUITES:
        assert f"`{kind}`" in page
        for option in SUITES[kind].model_fields:
            if option not in ("kind", "choice_prompt", "open_prompt", "language"):
                assert f"`{option}`" in page or f"{option}:" in page or f"{option}=" in page, (kind, option)
