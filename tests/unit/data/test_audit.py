"""The audit finds data that cannot be learnt from, and passes data that can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from triune.core.dataspec import DataSpec
from triune.core.recipe import Recipe
from triune.core.sample import Check, Media, Message, Picture, Sample, Text
from triune.data.audit import Audit, audit, inspect
from triune.data.show import annotated, contact_sheet
from triune.verify.judge import Judge
from triune.verify.trial import full_marks

RowsFile = Callable[..., Path]


def recipe(**source: Any) -> Recipe:
    data = DataSpec.model_validate({"sources": [source]})
    # Only the data is looked at.
    return Recipe.model_construct(data=data, seed=0)


def kinds(found: Audit) -> Counter[str]:
    return Counter(finding.kind for finding in found.findings)


def colours(folder: Path, count: int) -> None:
    for i in range(count):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")


def test_good_rows_pass(rows_file: RowsFile, tmp_path: Path) -> None:
    colours(tmp_path, 12)
    path = rows_file(12, change=lambda i, row: row.update(media=[f"{i}.png"]))
    found = audit(recipe(name="toy", path=str(path), heldout_fraction=0.3))
    assert found.passed
    assert not found.findings
    assert sum(found.counts.values()) == 12


def test_every_kind_of_fault_is_found(rows_file: RowsFile, tmp_path: Path) -> None:
    colours(tmp_path, 12)
    Image.new("RGB", (64, 64)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])

    def change(i: int, row: dict[str, Any]) -> None:
        row["media"] = ["cut.png" if i == 0 else f"{i}.png"]
        if i == 1:
            row["checks"] = [{"verifier": "cuont"}]
        if i == 2:
            row["checks"] = [{"verifier": "count", "params": {"answr": "tag"}}]
        if i == 3:
            row["truth"] = "many"
        if i == 4:
            row["expert"] = "five"
        if i == 5:
            row |= {"expert": "<answer>5</answer>"}
        if i == 7:
            row |= {"media": ["6.png"], "messages": [dict(row["messages"][0])]}
            row["messages"][0]["content"] = [
                {"type": "image", "media": 0},
                {"type": "text", "text": "How many? 6"},
            ]

    found = audit(recipe(name="toy", path=str(rows_file(8, change=change))))
    assert kinds(found) == {"media": 1, "routing": 3, "expert": 1, "duplicate": 1}
    assert not found.passed


def test_held_out_rows_that_are_trained_on(rows_file: RowsFile, tmp_path: Path) -> None:
    colours(tmp_path, 9)
    train = rows_file(6, "train.jsonl", change=lambda i, row: row.update(media=[f"{i}.png"]))

    def change(i: int, row: dict[str, Any]) -> None:
        # The same pixels in another encoding are still the same picture.
        Image.open(tmp_path / f"{i}.png").save(tmp_path / f"{i}.bmp")
        row["media"] = [f"{i}.bmp"]
        if i == 1:
            row["messages"][0]["content"][1]["text"] = "Something else"
        if i == 2:
            row["media"] = ["8.png"]

    heldout = rows_file(3, "heldout.jsonl", change=change)
    found = audit(recipe(name="toy", path=str(train), heldout_path=str(heldout)))
    assert kinds(found) == {"overlap": 1, "same_picture": 1}
    assert [f.sample for f in found.findings if f.kind == "overlap"] == ["heldout.jsonl/0"]


def test_demonstrations_in_a_layout_that_no_check_reads(rows_file: RowsFile, tmp_path: Path) -> None:
    colours(tmp_path, 3)
    path = rows_file(3, change=lambda i, row: row.update(media=[f"{i}.png"], expert=f"\\boxed{{{i}}}"))
    found = audit(recipe(name="toy", path=str(path)))
    assert kinds(found) == {"expert": 3, "layout": 1}
    assert not found.passed


def sample(
    truth: Any, *checks: Check, frame: str = "pixels_original", size: tuple[int, int] = (100, 50)
) -> Sample:
    return Sample(
        id="a",
        source="s",
        task="t",
        messages=(Message(role="user", content=(Picture(media=0), Text(text="Box it."))),),
        media=(Media.from_image(Image.new("RGB", size, "white")),),
        truth=truth,
        checks=checks,
        frame=frame,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("truth", "checks"),
    [
        ("1/2", [Check(verifier="math")]),
        (3.5, [Check(verifier="numeric")]),
        ("B", [Check(verifier="choice", params={"options": ["A", "B"]})]),
        (["cat", "kitten"], [Check(verifier="anls")]),
        (4, [Check(verifier="count", weight=0.9), Check(verifier="format_count", weight=0.1)]),
        (
            [1, 2, 30, 40],
            [Check(verifier="box_iou"), Check(verifier="format_json", params={"labels": False})],
        ),
        (
            {"boxes": [[1, 2, 30, 40]], "labels": ["cat"]},
            [Check(verifier="detection"), Check(verifier="format_json")],
        ),
        ({"boxes": [], "labels": []}, [Check(verifier="detection")]),
    ],
)
def test_a_truth_can_score_full_marks_by_every_shipped_verifier(truth: Any, checks: list[Check]) -> None:
    with Judge(workers=0) as judge:
        assert list(inspect(sample(truth, *checks), judge)) == []


def test_full_marks_add_up() -> None:
    checks = (Check(verifier="count", weight=0.9), Check(verifier="format_count", weight=0.3))
    assert full_marks(sample(3, *checks)) == pytest.approx(1.2)
    assert full_marks(sample(3, *checks).model_copy(update={"normalize": True})) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("frame", "box"),
    [
        ("pixels_original", [10, 10, 50, 40]),
        ("per_mille", [100, 200, 500, 800]),
        ("unit", [0.1, 0.2, 0.5, 0.8]),
    ],
)
def test_truth_is_drawn_in_its_frame(frame: str, box: list[float]) -> None:
    drawn = annotated(sample({"boxes": [box], "labels": [""]}, Check(verifier="detection"), frame=frame), 0)
    scale = drawn.width // 100
    dark = [
        (x, y)
        for x in range(drawn.width)
        for y in range(drawn.height)
        if drawn.getpixel((x, y)) != (255, 255, 255)
    ]
    xs, ys = [x for x, _ in dark], [y for _, y in dark]
    assert (min(xs), min(ys), max(xs) + 1, max(ys) + 1) == tuple(v * scale for v in (10, 10, 50, 40))


def test_a_sheet_holds_every_sample(tmp_path: Path) -> None:
    many = [sample(i, Check(verifier="count"), size=(4 + i, 300)) for i in range(5)]
    contact_sheet(many, tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 3 * 256
