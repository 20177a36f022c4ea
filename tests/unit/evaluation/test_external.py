"""Files for other scorers: each has the keys and types that the official script accesses (cited in the suite's module)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from triune.core.errors import DataError
from triune.evaluation.suites.external import External

from .making import answered, picture, suite, tagged


def written(kind: str, texts: list[str], out: Path, scale: float = 1.0, **options: Any) -> Any:
    chosen = suite(kind, out=out, **options)
    assert isinstance(chosen, External)
    rows = answered(chosen, texts, scale=scale)
    chosen.write(rows)
    assert all(isinstance(line, str) for line in chosen.commands())
    assert set(chosen.numbers(rows)) == {"without_answer", "unsupported"}
    return json.loads(out.read_text()) if out.is_file() else None


# -- MMMU ----------------------------------------------------------------------------------------------------------------


def mmmu_row(folder: Path, **fields: Any) -> dict[str, Any]:
    picture(folder / "a.png")
    image = {"bytes": (folder / "a.png").read_bytes(), "path": "validation_Art_Theory_1_1.png"}
    return {
        "id": "validation_Art_Theory_1",
        "question": "<image 1> Who painted this?",
        "options": "['Monet', 'van Gogh']",
        "explanation": "",
        "image_1": image,
        **{f"image_{i}": None for i in range(2, 8)},
        "img_type": "['Paintings']",
        "answer": "B",
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": "Art Theory",
        **fields,
    }


def test_mmmu(tmp_path: Path) -> None:
    open_row = {"id": "validation_Math_2", "question": "Add: <image 1> and again <image 1>", "options": "[]",
                "answer": "30", "question_type": "open"}  # fmt: skip
    other = {"id": "validation_Math_3", "question": "Which? <image 1>", "options": "['<image 2>', 'none']"}
    second = {"image_2": mmmu_row(tmp_path)["image_1"]}
    held = [mmmu_row(tmp_path), mmmu_row(tmp_path, **open_row), mmmu_row(tmp_path, **other, **second)]
    pq.write_table(pa.Table.from_pylist(held), tmp_path / "validation.parquet")
    chosen = suite("mmmu", data=str(tmp_path / "validation.parquet"), out=tmp_path / "out")
    samples = chosen.load("unit").samples
    assert "(A) Monet\n(B) van Gogh" in samples[0].messages[0].text
    assert [len(sample.media) for sample in samples] == [1, 1, 2]
    assert "[image 1]" in samples[1].messages[0].text
    written("mmmu", [tagged("B"), tagged("about 30"), "I think (B)"], tmp_path / "out", data=chosen.data)
    art = json.loads((tmp_path / "out" / "Art_Theory" / "output.json").read_text())
    assert art == [
        {
            "id": "validation_Art_Theory_1",
            "question_type": "multiple-choice",
            "answer": "B",
            "all_choices": ["A", "B"],
            "index2ans": {"A": "Monet", "B": "van Gogh"},
            "response": "B",
        }
    ]
    maths = json.loads((tmp_path / "out" / "Math" / "output.json").read_text())
    assert set(maths[0]) == {"id", "question_type", "answer", "response"}
    assert (
        maths[1]["response"] == "I think (B)"
    )  # not where it was asked for: the official parser gets it all
    total = json.loads((tmp_path / "out" / "total_output.json").read_text())
    assert total == {"validation_Art_Theory_1": "B", "validation_Math_2": "about 30", "validation_Math_3": ""}


def test_mmmu_refuses_a_question_about_a_picture_that_is_not_there(tmp_path: Path) -> None:
    row = mmmu_row(tmp_path, question="<image 1> and <image 2>")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "v.parquet", compression="none")
    with pytest.raises(DataError, match="row 0: the text shows images"):
        suite("mmmu", data=str(tmp_path / "v.parquet"), out=tmp_path).load("unit")


# -- MathVista -----------------------------------------------------------------------------------------------------------

PROBLEMS = {
    "1": {
        "question": "How far?", "image": "images/1.jpg", "choices": None, "unit": "m", "precision": 1.0, "answer": "1.2",
        "question_type": "free_form", "answer_type": "float", "pid": "1",
        "metadata": {"split": "testmini", "language": "english", "skills": ["scientific reasoning"]},
    },
    "2": {
        "question": "Which?", "image": "images/2.jpg", "choices": ["red", "blue"], "unit": None, "precision": None,
        "answer": "blue", "question_type": "multi_choice", "answer_type": "text", "pid": "2",
        "metadata": {"split": "testmini", "language": "english", "skills": []},
    },
}  # fmt: skip


def test_mathvista(tmp_path: Path) -> None:
    for pid in PROBLEMS:
        picture(tmp_path / "images" / f"{pid}.jpg")
    (tmp_path / "testmini.json").write_text(json.dumps(PROBLEMS))
    data = str(tmp_path / "testmini.json")
    samples = suite("mathvista", data=data, out=tmp_path / "o.json").load("unit").samples
    assert (
        samples[0]
        .messages[0]
        .text.startswith("How far? (Unit: m)\nAnswer with a number with 1 decimal places")
    )
    assert "(A) red\n(B) blue" in samples[1].messages[0].text
    held = written("mathvista", [tagged("1.2"), "blue it is"], tmp_path / "o.json", data=data)
    # calculate_score.py: choices, question_type, answer_type, precision, extraction, answer, metadata.
    assert {key: held["1"][key] for key in PROBLEMS["1"]} == PROBLEMS["1"]
    assert (held["1"]["extraction"], held["2"]["extraction"]) == ("1.2", "")
    # extract_answer.py: response, query, pid.
    assert held["2"]["response"] == "blue it is"
    assert held["2"]["query"] == samples[1].messages[0].text


def test_mathvista_can_use_the_official_wording(tmp_path: Path) -> None:
    for pid in PROBLEMS:
        picture(tmp_path / "images" / f"{pid}.jpg")
    (tmp_path / "testmini.json").write_text(json.dumps(PROBLEMS))
    (tmp_path / "query.json").write_text(json.dumps({"1": "Hint: a float.\nQuestion: How far?"}))
    options = {
        "data": str(tmp_path / "testmini.json"),
        "queries": tmp_path / "query.json",
        "out": tmp_path / "o.json",
    }
    with pytest.raises(DataError, match=r"row 1: .*no wording for pid '2'"):
        suite("mathvista", **options).load("unit")
    first = suite("mathvista", **options, on_bad_row="skip").load("unit").samples[0]
    assert first.messages[0].text.startswith("Hint: a float.\nQuestion: How far?\n")


# -- MEGA-Bench ----------------------------------------------------------------------------------------------------------


def test_megabench(tmp_path: Path) -> None:
    for name in ("shot.png", "q1.png", "q2.png"):
        picture(tmp_path / "data" / name)
    task = {
        "task_name": "code_execution", "task_description": "Predict the output.", "global_media": "[]",
        "example_text": "Example: <image>", "example_media": "['data/shot.png']", "metric_info": "{}",
        "eval_context": "{}", "taxonomy_tree_path": "Coding",
    }  # fmt: skip
    held = [
        {"id": "7", **task, "query_text": "Now: <image>", "query_media": "['data/q1.png']", "answer": "{'Answer': '[1, 2]'}"},
        {"id": "8", **task, "query_text": "Now: <video>", "query_media": "['data/clip.mp4']", "answer": "{'Answer': '3'}"},
        {"id": "9", **task, "task_name": "other", "example_text": "", "example_media": "[]", "query_text": "Read <image>",
         "query_media": "['data/q2.png']", "answer": "{'Answer': 'x'}"},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(held), tmp_path / "core.parquet")
    data = str(tmp_path / "core.parquet")
    samples = suite("megabench", data=data, out=tmp_path / "o.json").load("unit").samples
    assert [len(sample.media) for sample in samples] == [2, 0, 1]
    assert samples[0].messages[0].text == "Predict the output.\nExample: \nNow: "
    texts = ["<think>hm</think> Answer: [1, 2]", "?", "Answer: x<|im_end|>"]
    tasks = written("megabench", texts, tmp_path / "o.json", data=data)
    assert [one["task_name"] for one in tasks] == ["code_execution", "other"]
    # task_processor.py, append_query_response; evaluation_processor.py, process.
    assert set(tasks[0]) == {
        "task_name",
        "global_description",
        "global_images",
        "example_info",
        "query_response",
    }
    assert tasks[0]["example_info"] == {"image_paths": ["data/shot.png"], "example_text": "Example: <image>"}
    assert tasks[0]["query_response"][0] == {
        "response": "Answer: [1, 2]", "correct_answer": {"Answer": "[1, 2]"}, "global_idx": "7", "query_idx": 0,
        "images": ["data/q1.png"], "query_text": "Now: <image>",
    }  # fmt: skip
    assert "skipped" in tasks[0]["query_response"][1]["response"]
    assert tasks[1]["query_response"][0]["query_idx"] == 0
    chosen = suite("megabench", data=data, out=tmp_path / "o.json")
    assert chosen.numbers(answered(chosen, texts))["unsupported"].value == 1


# -- OCRBench v2 ---------------------------------------------------------------------------------------------------------


def test_ocrbench_v2_keeps_every_field_and_adds_predict(tmp_path: Path) -> None:
    picture(tmp_path / "EN_part" / "a.jpg")
    question = {
        "dataset_name": "IIIT5K", "type": "text recognition en", "id": 0, "image_path": "EN_part/a.jpg",
        "question": "What is written?", "answers": ["CENTRE"], "eval": "case sensitive",
    }  # fmt: skip
    (tmp_path / "OCRBench_v2.json").write_text(json.dumps([question, {**question, "id": 1}]))
    texts = [tagged("CENTRE"), "<think>unclosed"]
    held = written("ocrbench_v2", texts, tmp_path / "o.json", data=str(tmp_path / "OCRBench_v2.json"))
    assert held == [
        {**question, "predict": "CENTRE"},
        {**question, "id": 1, "predict": "<think>unclosed"},
    ]


# -- ScreenSpot-Pro --------------------------------------------------------------------------------------------------------


def test_screenspot_pro(tmp_path: Path) -> None:
    picture(tmp_path / "shot.png", (200, 100))
    one = {
        "img_filename": "shot.png", "bbox": [10, 10, 50, 50], "instruction": "open the file", "instruction_cn": "x",
        "id": "vscode_macos_0", "application": "vscode", "platform": "macos", "img_size": [200, 100],
        "ui_type": "icon", "group": "Dev",
    }  # fmt: skip
    (tmp_path / "vscode_macos.json").write_text(json.dumps([{**one, "id": f"v{i}"} for i in range(4)]))
    texts = [
        tagged([40, 40]),
        tagged([{"bbox_2d": [100, 100, 200, 200]}]),
        "there",
        tagged({"point_2d": [100, 100]}),
    ]
    held = written(
        "screenspot_pro", texts, tmp_path / "o.json", scale=2, data=str(tmp_path / "vscode_macos.json")
    )
    # eval_screenspot_pro.py, evaluate and its helpers.
    keys = {
        "correctness",
        "ui_type",
        "platform",
        "group",
        "application",
        "instruction_style",
        "gt_type",
        "lang",
    }
    assert all(keys <= set(row) for row in held)
    assert [row["correctness"] for row in held] == ["correct", "wrong", "wrong_format", "correct"]
    assert [row["pred"] for row in held] == [[20, 20], [75, 75], None, [50, 50]]
    assert held[0]["task_filename"] == "vscode_macos"
    wrong = [{**one, "img_size": [400, 200]}]
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    with pytest.raises(DataError, match="row 0: img_size"):
        suite("screenspot_pro", data=str(tmp_path / "wrong.json"), out=tmp_path).load("unit")
