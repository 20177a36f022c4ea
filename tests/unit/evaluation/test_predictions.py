"""Rows of predictions: everything that a verdict was made from, so that it can be made again without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from triune.core.errors import DataError, RecipeError
from triune.core.sample import Check, Media, Message, Picture, Sample, Text
from triune.core.verdict import Outcome, Seen
from triune.evaluation.predictions import END, Prediction, load, record, rejudge, write
from triune.evaluation.run import rescore
from triune.verify.judge import Judge

from .making import answered, coco, items, suite, table, tagged
from .making import picture as drawn

BOX = [10, 10, 50, 50]


@pytest.fixture
def rows(tmp_path: Path) -> list[Prediction]:
    name = drawn(tmp_path / "a.png")
    boxes = suite(
        "detection", data=coco(tmp_path, [[(BOX, "cat")]], ["cat"]), name="boxes", aliases={"kitty": "cat"}
    )
    row = {"image": name, "question": "How many?", "answer": 4}
    numbers = suite("counting", data=table(tmp_path / "rows.jsonl", [row] * 3), name="numbers")
    return [
        *answered(boxes, [items(([15, 15, 75, 75], "kitty"))], scale=1.5),
        *answered(numbers, [tagged("4"), tagged("5"), "\ud800"]),
    ]


def test_every_figure_comes_out_of_the_file_again(rows: list[Prediction], tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", rows)
    read = load(tmp_path / "rows.jsonl")
    assert read == rows
    report, changed = rescore(read, workers=0)
    assert changed == 0
    assert report.rows == rows
    found = report.numbers()
    assert found["boxes"]["map_dataset"].value == pytest.approx(1)  # the alias and the frame survive
    assert found["numbers"]["accuracy"].value == pytest.approx(1 / 3)
    assert found["numbers"]["unparsed"].value == 1


def test_another_verdict_is_noticed(rows: list[Prediction]) -> None:
    rows[1] = rows[1].model_copy(update={"correct": False, "value": 0.0})
    report, changed = rescore(rows, workers=0)
    assert changed == 1
    assert report.rows[1].correct


def test_what_is_read_by_each_verifier() -> None:
    def read(text: str, verifier: str, truth: Any, **params: Any) -> Any:
        media = Media.from_bytes(_png())
        sample = Sample(
            id="a",
            source="s",
            task="t",
            messages=(Message(role="user", content=(Picture(media=0), Text(text="?"))),),
            media=(media,),
            truth=truth,
            checks=(Check(verifier="format_count", weight=0.1), Check(verifier=verifier, params=params)),
        )
        seen = Seen(sha256=media.sha256, original=(100, 50), processed=(200, 100))
        outcome = Outcome(id="a/0", text=text, media=(seen,), frame="pixels_processed")
        with Judge(workers=0) as judge:
            verdict = judge.judge(sample, [outcome], END)[0]
        row = record(sample, outcome, verdict)
        assert rejudge([row], Judge(workers=0)) == [row]
        return row.prediction

    assert read(tagged("B"), "choice", "A") == "B"
    assert read(tagged("45%"), "numeric", 0.4) == 0.45
    assert read(tagged("7"), "count", 3) == 7
    assert read(tagged([20, 20, 60, 80]), "box_iou", [10, 10, 30, 40]) == [10, 10, 30, 40]
    assert read(tagged(" Exit  "), "text_exact", "exit") == "Exit"
    assert read(r"so \boxed{x^2}", "math", "x^2") == "x^2"
    assert read("no tags", "text_exact", "exit") is None
    assert read(tagged([[1, 2, 3, 4], [1, 2, 3]]), "detection", {"boxes": [[1, 1, 2, 2]]}, labels=False) == [
        {"bbox_2d": [0.5, 1, 1.5, 2], "label": ""},
        None,
    ]


def _png() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (100, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_verifier_that_fails_leaves_the_sample_out_and_is_counted(tmp_path: Path) -> None:
    name = drawn(tmp_path / "a.png")
    file = table(tmp_path / "rows.jsonl", [{"image": name, "question": "How many?", "answer": 4}] * 2)
    chosen = suite("counting", data=file)
    rows = answered(chosen, [tagged("4"), tagged("4")])
    broken = rows[0].model_copy(update={"truth": "many"})
    report, changed = rescore([broken, rows[1]], workers=0)
    found = report.numbers()["rows"]
    assert changed == 1
    assert found["unjudged"].value == 1
    assert found["accuracy"].n == 1
    assert found["accuracy"].value == 1


def test_a_file_that_is_no_predictions_is_refused_by_line(rows: list[Prediction], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, rows)
    path.write_text(path.read_text() + '{"id": "a"}\n')
    with pytest.raises(DataError, match="line 5: not a row of predictions"):
        load(path)
    path.write_text("")
    with pytest.raises(DataError, match="holds no predictions"):
        load(path)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "gone.jsonl")


def test_a_row_of_an_unknown_suite_is_refused(rows: list[Prediction]) -> None:
    with pytest.raises(RecipeError, match="did you mean 'detection'"):
        rescore([rows[0].model_copy(update={"suite": {"kind": "detektion"}})], workers=0)
