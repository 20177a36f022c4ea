"""Suites: questions in declared words, answers by scripted policies, figures by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from triune.core.errors import DataError, RecipeError
from triune.evaluation.suites.detection import Detection
from triune.verify.judge import Judge

from .making import answered, coco, items, picture, suite, table, tagged

LEFT, RIGHT = [10, 10, 50, 50], [120, 20, 180, 80]


# -- detection ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def annotations(tmp_path: Path) -> str:
    """One box; two boxes of two labels; nothing."""
    return coco(
        tmp_path, [[(LEFT, "cat")], [(LEFT, "cat"), (RIGHT, "Traffic Light")], []], ["cat", "Traffic Light"]
    )


def test_detection_asks_for_what_is_there_in_the_models_own_frame(annotations: str) -> None:
    loaded = suite("detection", data=annotations).load("per_mille")
    first, second = loaded.samples
    assert "image: cat. " in first.messages[0].text
    assert "cat, Traffic Light" in second.messages[0].text
    assert "from 0 to 1000" in first.messages[0].text
    assert "inside <answer> and </answer>" in first.messages[0].text
    assert first.truth == {"boxes": [LEFT], "labels": ["cat"]}
    assert loaded.left_out == {"no true box, so nothing to ask for": 1}
    everything = suite("detection", data=annotations, asked="all").load("per_mille").samples
    assert len(everything) == 3
    assert "cat, Traffic Light" in everything[2].messages[0].text


def test_detection_subsets_by_the_number_of_boxes(annotations: str) -> None:
    for subset, ids in {"single": ["instances/10"], "multi": ["instances/11"]}.items():
        loaded = suite("detection", data=annotations, subset=subset).load("unit")
        assert [sample.id for sample in loaded.samples] == ids
        assert loaded.left_out == {f"not {subset}": 2}


def test_detection_boxes_come_back_in_pixels_of_the_stored_picture(annotations: str) -> None:
    chosen = suite("detection", data=annotations, subset="single")
    # The picture is 200 x 100. The policy sees it at 1.5 times the size, or writes thousandths.
    for box, frame in (([15, 15, 75, 75], "pixels_processed"), ([50, 100, 250, 500], "per_mille")):
        row = answered(chosen, [items((box, "Cat"))], frame, scale=1.5)[0]  # type: ignore[arg-type]
        assert row.prediction == [{"bbox_2d": pytest.approx([10, 10, 50, 50]), "label": "cat"}]
        assert row.correct
        assert chosen.numbers([row])["map_per_image_mean"].value == pytest.approx(1)
        assert chosen.numbers([row])["map_dataset"].value == pytest.approx(1)


def test_detection_figures_by_hand(annotations: str) -> None:
    chosen = suite("detection", data=annotations, asked="all")
    rows = answered(
        chosen, [items((LEFT, "cat"), (RIGHT, "dragon")), items((RIGHT, "traffic light")), "no list at all"]
    )
    found = chosen.numbers(rows)
    # Picture 1: 1 (the dragon is free), 2: mean of cat 0 and light 1, 3: empty, but the answer is unreadable.
    assert found["map_per_image_mean"].value == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["map_per_image_mean_strict"].value == pytest.approx((0.5 + 0.5 + 0) / 3)
    # Set: cat 1 of 2 found (recall .5: 51 of 101 points), light 1.
    assert found["map_dataset"].value == pytest.approx((51 / 101 + 1) / 2)
    assert found["map_dataset_strict"].value == pytest.approx((51 / 101 + 1) / 3)
    assert found["boxes_without_known_label"].value == 1
    assert found["images_without_truth"].value == 1
    assert [row.status for row in rows] == ["ok", "ok", "unparsed"]
    low, high = found["map_dataset"].low, found["map_dataset"].high
    assert low is not None
    assert high is not None
    assert low <= (51 / 101 + 1) / 2 <= high


def test_nothing_said_to_be_there_is_right_where_nothing_is(annotations: str) -> None:
    chosen = suite("detection", data=annotations, asked="all")
    rows = answered(chosen, [items(), items(), items()])
    assert chosen.numbers(rows)["map_per_image_mean"].value == pytest.approx(1 / 3)


def test_aliases_name_a_category_otherwise(annotations: str) -> None:
    chosen = suite("detection", data=annotations, subset="single", aliases={"Kitty": "cat"})
    rows = answered(chosen, [items((LEFT, "kitty"))])
    assert chosen.numbers(rows)["map_dataset"].value == pytest.approx(1)


def test_an_item_that_is_no_box_claims_something_that_is_not_there(annotations: str) -> None:
    chosen = suite("detection", data=annotations, subset="single")
    bad = tagged([{"bbox_2d": [50, 10, 10, 50], "label": "cat"}, {"bbox_2d": LEFT, "label": "cat"}])
    rows = answered(chosen, [bad])
    assert rows[0].prediction == [None, {"bbox_2d": LEFT, "label": "cat"}]
    assert chosen.numbers(rows)["map_per_image_mean_strict"].value == pytest.approx(0.5)
    assert chosen.numbers(rows)["boxes_without_known_label"].value == 1


def test_crowd_regions_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    file = coco(tmp_path, [[(LEFT, "cat"), (RIGHT, "cat")]], ["cat"])
    held = json.loads(Path(file).read_text())
    held["annotations"][1]["iscrowd"] = 1
    Path(file).write_text(json.dumps(held))
    chosen = suite("detection", data=file, subset="single")
    rows = answered(chosen, [items(([130, 30, 150, 50], "cat"), (LEFT, "cat"))])
    assert chosen.numbers(rows)["map_per_image_mean"].value == pytest.approx(1)
    assert chosen.numbers(rows)["map_dataset"].value == pytest.approx(1)


def test_a_coco_results_file_has_the_files_own_ids(annotations: str, tmp_path: Path) -> None:
    chosen = suite("detection", data=annotations, subset="multi", out=tmp_path / "out" / "results.json")
    assert isinstance(chosen, Detection)
    rows = answered(chosen, [items((RIGHT, "traffic light"), (LEFT, "dragon"))])
    assert chosen.write(rows) == [tmp_path / "out" / "results.json"]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == [
        {"image_id": 11, "category_id": 6, "bbox": [120, 20, 60, 60], "score": 1.0}
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop("categories"), "it needs the lists images, annotations, categories"),
        (lambda held: held["annotations"][1].update(category_id=99), r"annotations\[1\]: category_id 99"),
        (lambda held: held["annotations"][0].update(image_id=99), r"annotations\[0\]: image_id 99"),
        (lambda held: held["annotations"][0].update(bbox=[1, 2, 3]), r"bbox must be \[x, y, width, height\]"),
        (
            lambda held: held["annotations"][0].update(bbox=[1, 2, 0, 3]),
            r"row 0: annotation 0: .* has no area",
        ),
        (lambda held: held["categories"][1].update(name=" CAT"), "share an id or a name"),
        (lambda held: held["images"][0].update(file_name="gone.png"), r"row 0: .*gone\.png"),
    ],
)
def test_a_bad_annotation_file_is_refused_by_entry(annotations: str, change: Any, message: str) -> None:
    held = json.loads(Path(annotations).read_text())
    change(held)
    Path(annotations).write_text(json.dumps(held))
    with pytest.raises(DataError, match=message):
        suite("detection", data=annotations).load("unit")


def test_bad_pictures_may_be_left_out_and_are_counted(annotations: str) -> None:
    (Path(annotations).parent / "0.png").write_text("no picture")
    loaded = suite("detection", data=annotations, on_bad_row="skip").load("unit")
    assert len(loaded.samples) == 1
    assert loaded.left_out["broken_media"] == 1


@pytest.mark.parametrize("kind", ["detection", "ovdeval"])
def test_a_missing_library_is_missed_before_the_model_runs(
    annotations: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(RecipeError, match=r"pip install 'triune\[coco\]'"):
        suite(kind, data=annotations).load("unit")


# -- OVDEval -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ovdeval(tmp_path: Path) -> str:
    """Two pictures with one object each, and the other's label as a hard negative."""
    return coco(
        tmp_path,
        [[(LEFT, "red ball")], [(LEFT, "blue ball")]],
        ["red ball", "blue ball"],
        text=[["red ball"], ["blue ball"]],
        neg_text=[["blue ball"], ["red ball"]],
    )


def test_ovdeval_asks_for_positives_and_hard_negatives(ovdeval: str) -> None:
    first, second = suite("ovdeval", data=ovdeval).load("unit").samples
    assert "red ball, blue ball." in first.messages[0].text
    assert "blue ball, red ball." in second.messages[0].text


def test_claiming_both_labels_pays_in_ap_and_not_in_nms_ap(ovdeval: str) -> None:
    chosen = suite("ovdeval", data=ovdeval)
    both = items((LEFT, "red ball"), (LEFT, "blue ball"))
    found = chosen.numbers(answered(chosen, [both, both]))
    assert found["ap"].value == pytest.approx((1 + 0.5) / 2)
    assert found["nms_ap"].value == pytest.approx(0.5)
    assert found["boxes_suppressed"].value == 2
    honest = [items((LEFT, "red ball")), items((LEFT, "blue ball"))]
    assert chosen.numbers(answered(chosen, honest))["nms_ap"].value == pytest.approx(1)


# -- tables of questions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_grounding(tmp_path: Path, suffix: str) -> None:
    name = picture(tmp_path / "a.png")
    row = {"image": name, "phrase": "the red cup", "box": [10, 10, 50, 50]}
    chosen = suite("grounding", data=table(tmp_path / f"rows{suffix}", [row] * 4))
    assert "Locate the red cup" in chosen.load("unit").samples[0].messages[0].text
    rows = answered(
        chosen,
        [tagged([0.05, 0.1, 0.25, 0.5]), tagged([0.05, 0.1, 0.25, 0.4]), tagged([0.5, 0.5, 1, 1]), "there"],
        "unit",
    )
    found = chosen.numbers(rows)
    assert rows[0].prediction == pytest.approx([10, 10, 50, 50])
    assert found["accuracy@50"].value == 0.5
    assert found["accuracy@75"].value == 0.5
    assert found["accuracy@95"].value == 0.25
    assert found["iou"].value == pytest.approx((1 + 0.75 + 0 + 0) / 4)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_counting(tmp_path: Path, suffix: str) -> None:
    name = picture(tmp_path / "a.png")
    row = {"image": name, "question": "How many?", "answer": 4}
    chosen = suite("counting", data=table(tmp_path / f"rows{suffix}", [row] * 4))
    rows = answered(chosen, [tagged("4"), tagged("5"), tagged("7"), tagged("some")])
    found = chosen.numbers(rows)
    assert [row.prediction for row in rows] == [4, 5, 7, None]
    assert found["accuracy"].value == 0.25
    assert found["within_1"].value == 0.5
    assert found["mae"].value == pytest.approx((0 + 1 + 3) / 3)  # of those that could be read
    assert found["mae"].n == 3


def test_ocr(tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    held = [
        {"image": name, "answer": "stop sign"},
        {"image": name, "question": "Which word?", "answer": ["exit", "way out"]},
        {"image": name, "question": "Which word?", "answer": "push"},
    ]
    chosen = suite("ocr", data=table(tmp_path / "rows.csv", [{"question": None, **row} for row in held]))
    samples = chosen.load("unit").samples
    assert samples[0].messages[0].text.startswith("Read the text in the image.")
    rows = answered(chosen, [tagged("stop sing"), tagged("way out"), "nothing in tags"])
    found = chosen.numbers(rows)
    assert found["exact"].value == pytest.approx(1 / 3)
    assert found["anls"].value == pytest.approx((1 - 2 / 9 + 1 + 0) / 3)
    assert found["cer"].value == pytest.approx((2 + 0 + 4) / (9 + 7 + 4))
    assert found["wer"].value == pytest.approx((1 + 0 + 1) / (2 + 2 + 1))


def test_choice_from_columns_or_lists(tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    listed = {"image": name, "question": "What?", "options": ["cat", "dog", "cow"], "answer": "dog"}
    lettered = {"image": name, "question": "What?", "A": "cat", "B": "dog", "C": "cow", "answer": "B"}
    for row, file in ((listed, "a.csv"), (listed, "a.jsonl"), (lettered, "b.csv")):
        chosen = suite("choice", data=table(tmp_path / file, [row] * 3))
        sample = chosen.load("unit").samples[0]
        assert "A. cat\nB. dog\nC. cow\n" in sample.messages[0].text
        rows = answered(chosen, [tagged("B"), tagged("C. cow"), tagged("A or B")])
        assert [row.prediction for row in rows] == ["B", "C", None]
        assert chosen.numbers(rows)["accuracy"].value == pytest.approx(1 / 3)
        assert chosen.numbers(rows)["guessing"].value == pytest.approx(1 / 3)


def test_circular_choice_is_right_only_in_every_rotation(tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    row = {"image": name, "question": "What?", "options": ["cat", "dog", "cow"], "answer": "B"}
    chosen = suite("choice", data=table(tmp_path / "rows.jsonl", [row, row]), circular=True)
    samples = chosen.load("unit").samples
    assert [sample.truth for sample in samples] == ["B", "A", "C"] * 2
    assert "A. dog\nB. cow\nC. cat" in samples[1].messages[0].text
    always_b = [tagged("B")] * 3
    knows = [tagged("dog")] * 3
    found = chosen.numbers(answered(chosen, always_b + knows))
    assert found["accuracy"].value == pytest.approx((1 / 3 + 1) / 2)
    assert found["circular_accuracy"].value == 0.5
    assert found["circular_accuracy"].n == 2


def test_the_place_of_the_answer_is_asked_for_and_read(tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    file = table(tmp_path / "rows.jsonl", [{"image": name, "question": "How many?", "answer": 4}])
    for place, said in (("boxed", r"so \boxed{4}"), ("text", "4"), ("tag", "<answer>4</answer>")):
        chosen = suite("counting", data=file, answer=place)
        row = answered(chosen, [said])[0]
        assert row.correct
        assert {"boxed": r"\boxed{}", "text": "nothing else", "tag": "<answer>"}[place] in row.prompt


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("counting", {"question": "How many?"}, "row 1: field 'answer' is missing"),
        ("counting", {"question": "How many?", "answer": 1, "image": "gone.png"}, r"row 1: .*gone\.png"),
        ("grounding", {"phrase": "it", "box": [1, 2, 3]}, "row 1: field 'box' must be four numbers"),
        ("choice", {"question": "What?", "answer": "A"}, "row 1: field 'options' must list 2 to 26 options"),
        (
            "choice",
            {"question": "?", "answer": "D", "options": ["a", "b"]},
            "row 1: field 'answer': D is not one",
        ),
        (
            "choice",
            {"question": "?", "answer": "A", "options": ["a", "A "]},
            "row 1: two options are the same",
        ),
    ],
)
def test_a_bad_row_is_refused_by_number(tmp_path: Path, kind: str, row: dict[str, Any], message: str) -> None:
    name = picture(tmp_path / "a.png")
    good: dict[str, Any] = {
        "counting": {"question": "How many?", "answer": 1},
        "grounding": {"phrase": "it", "box": [1, 2, 30, 40]},
        "choice": {"question": "What?", "answer": "A", "options": ["a", "b"]},
    }[kind]
    file = table(tmp_path / "rows.jsonl", [{"image": name, **good}, {"image": name, **row}])
    with pytest.raises(DataError, match=message):
        suite(kind, data=file).load("unit")
    assert suite(kind, data=file, on_bad_row="skip").load("unit").left_out.total() == 1


def test_a_truth_that_no_verifier_can_read_is_refused_before_the_model_runs(tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    file = table(tmp_path / "rows.jsonl", [{"image": name, "question": "How many?", "answer": "a few"}])
    with Judge(workers=0) as judge, pytest.raises(DataError, match="invalid_reference"):
        judge.check_many(suite("counting", data=file).load("unit").samples)


def test_a_csv_with_a_short_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("image,question,answer\na.png,How many?\n")
    with pytest.raises(DataError, match=r"row 0 .*2 cells where the first line names 3"):
        suite("counting", data=str(tmp_path / "rows.csv")).load("unit")


# -- rows with their own checks ------------------------------------------------------------------------------------------


def test_rows_keep_their_prompts_and_checks(tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    row = {
        "data_source": "v3det",
        "images": [name],
        "prompt": [{"role": "user", "content": "<image>Detect every cat."}],
        "ability": "detection",
        "reward_model": {
            "answer": "[{'bbox_2d': [100, 200, 500, 800], 'label': 'cat'}]",
            "ground_truth": "",
            "accuracy_ratio": 1.0,
            "format_ratio": 0.1,
            "verifier": "detection",
            "verifier_parm": {"det_verifier_normalized": True, "det_reward_ratio": None},
        },
        "extra_info": {"id": "one", "image_path": None},
    }
    chosen = suite("rows", data=table(tmp_path / "test.jsonl", [row]), adapter="vtriune")
    # Thousandths in the truth, pixels of the picture as seen (twice as large) in the answer.
    rows = answered(chosen, [items(([40, 40, 200, 160], "cat"))], scale=2)
    assert rows[0].prompt == "<image>Detect every cat."
    assert rows[0].prediction == [{"bbox_2d": [20, 20, 100, 80], "label": "cat"}]
    found = chosen.numbers(rows)
    assert found["map_per_image_mean"].value == pytest.approx(1)
    assert found["correct"].value == 1
    assert found["f1@50"].value == 1
