"""Boxes and points of truths and answers: where the frame says, whatever the answer is."""

from __future__ import annotations

import time

import pytest
from pydantic import JsonValue

from triune.core.sample import Check, Frame
from triune.monitor.boxes import MAX_MARKS, Box, Canvas, Layout, Marks, Outline, answered_marks, true_marks

PAGE = [Canvas((100, 50), (200, 200))]


def point(x: float, y: float, label: str = "", image: int = 0) -> Outline:
    return Outline(((x, y),), label, image)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('<answer>[{"bbox_2d":[1,2,3,4],"label":"a"}]</answer>', [Box(1, 2, 3, 4, "a")]),
        ("[{'bbox_2d': [1, 2.5, 3, 4], 'label': \"it's\"}]", [Box(1, 2.5, 3, 4, "it's")]),
        ('<think>[9,9,9,9]</think><answer>[{"label":"b","bbox_2d":[3,4,1,2]}', [Box(1, 2, 3, 4, "b")]),
        ("<answer>[0,0,5,5]</answer><answer>[1, 2, 3, 4]</answer>", [Box(1, 2, 3, 4)]),
        ("It is at (1, 2), (3, 4).", [Box(1, 2, 3, 4)]),
        ("<ref>cat</ref><box>(1,2),(3,4)</box> <box>[[5, 6, 7, 8]]</box>", [Box(1, 2, 3, 4, "cat"), Box(5, 6, 7, 8, "cat")]),
        ("<loc0512><loc0256><loc1024><loc0512> cat ; ", [Box(25, 25, 50, 50, "cat")]),
        ('{"bbox_2d":[1e9,-1e9,2e9,1e999]}', []),
        ('{"bbox_2d":[1,2,1e9,4]}', [Box(1, 2, 200, 4)]),
        ('{"bbox_2d":["1","2","3","4"]}', []),
        ("no boxes here", []),
        ("", []),
    ],
)  # fmt: skip
def test_boxes_in_answers(response: str, expected: list[Box]) -> None:
    assert list(answered_marks(response, "pixels_original", PAGE).boxes) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('<answer>{"point_2d": [10, 20], "label": "OK"}</answer>', [point(10, 20, "OK")]),
        ('<points x1="10.0" y1="20" x2="50" y2="60" alt="cups">cups</points>', [point(10, 10, "cups"), point(50, 30, "cups")]),
        ("click(x=150, y=141)", [point(150, 100)]),
        ("[{'action': 'click', 'point': [30, 40]}]", [point(30, 40)]),
        ('<point x="1" alt="half">', []),
    ],
)  # fmt: skip
def test_points_in_answers(response: str, expected: list[Outline]) -> None:
    assert list(answered_marks(response, "pixels_original", PAGE, truth=None).points) == expected


def test_bare_numbers_are_places_only_where_the_truth_is_about_places() -> None:
    pointing = Layout.of([Check(verifier="point_in")])
    assert true_marks([3, 4], "pixels_original", PAGE) is None
    truth = true_marks([3, 4], "pixels_original", PAGE, pointing)
    assert truth == Marks(points=(point(3, 4),))
    assert answered_marks("<answer>[5, 6]</answer>", "pixels_original", PAGE, pointing, truth).points == (
        point(5, 6),
    )
    assert answered_marks("the set [1, 2, 3, 4]", "pixels_original", PAGE, truth=None) == Marks()
    of_a_list = Layout.of([Check(verifier="unordered_set")])
    assert true_marks([1, 2, 3, 4], "pixels_original", PAGE, of_a_list) is None


FRAMES: list[tuple[Frame, list[JsonValue]]] = [
    ("pixels_original", [10, 5, 20, 10]),
    ("pixels_processed", [20, 20, 40, 40]),
    ("unit", [0.1, 0.1, 0.2, 0.2]),
    ("per_mille", [100, 100, 200, 200]),
]


@pytest.mark.parametrize(("frame", "numbers"), FRAMES)
def test_boxes_are_drawn_where_the_frame_says(frame: Frame, numbers: list[JsonValue]) -> None:
    assert answered_marks(str(numbers), frame, PAGE).boxes == (Box(10, 5, 20, 10),)
    truth = true_marks(numbers, frame, PAGE)
    assert truth is not None
    assert truth.boxes == (Box(10, 5, 20, 10),)
    assert truth.boxes[0].written == tuple(numbers)


def test_the_checks_say_how_numbers_are_written() -> None:
    gemini = Layout.of(
        [Check(verifier="box_iou", params={"box_key": "box_2d", "order": "yxyx", "scale": 1000})]
    )
    found = answered_marks('[{"box_2d": [100, 200, 300, 400]}]', "pixels_original", PAGE, gemini)
    assert found.boxes == (Box(20, 5, 40, 15),)
    assert found.boxes[0].written == (100, 200, 300, 400)
    wide = Layout.of([Check(verifier="box_iou", params={"order": "xywh"})])
    assert answered_marks("[10, 10, 20, 30]", "pixels_original", PAGE, wide).boxes == (Box(10, 10, 30, 40),)
    # The truth is written in its own frame, whatever the answers are.
    truth = true_marks([10, 5, 20, 10], "pixels_original", PAGE, gemini)
    assert truth is not None
    assert truth.boxes == (Box(10, 5, 20, 10),)


def test_a_mark_that_cannot_be_placed_is_counted() -> None:
    """A frame without its size, a picture that is not there, no finite number: nothing is drawn at a wrong place."""
    assert answered_marks("[1, 2, 3, 1e999]", "pixels_original", PAGE) == Marks(unplaced=1)
    assert true_marks([1, 2, 3, 10**400], "pixels_original", PAGE) == Marks(unplaced=1)
    assert answered_marks("[1, 2, 3, 4]", "pixels_processed", [Canvas((9, 9))]) == Marks(unplaced=1)
    truth: JsonValue = {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]], "images": [1, 5]}
    pages = [Canvas((9, 9)), Canvas((9, 9))]
    assert true_marks(truth, "pixels_original", pages) == Marks(boxes=(Box(1, 2, 3, 4, image=1),), unplaced=1)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ({"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]], "labels": ["a"]}, Marks((Box(1, 2, 3, 4, "a"), Box(5, 6, 7, 8)))),
        ({"boxes": []}, Marks()),
        ({"points": [[1, 2]], "labels": ["a"]}, Marks(points=(point(1, 2, "a"),))),
        ({"polygon": [[0, 0], [4, 0], [0, 4]]}, Marks(polygons=(Outline(((0, 0), (4, 0), (0, 4))),))),
        ({"box": [1, 2, 3, 4], "knowledge": "partial"}, Marks((Box(1, 2, 3, 4),))),
        ({"action": "click", "gt_bbox": [3, 4]}, Marks(points=(point(3, 4),))),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "a"}]', Marks((Box(1, 2, 3, 4, "a"),))),
        ([{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3], "affordance": "g"}], Marks((Box(1, 2, 3, 4, "g"),), (point(2, 3, "g"),))),
        *((other, None) for other in (3, "3", [1, 2, 3], [True, 1, 2, 3], {"answer": 3}, None, [], "[1, 2", "[" * 10_000)),
    ],
)  # fmt: skip
def test_truths(truth: JsonValue, expected: Marks | None) -> None:
    assert true_marks(truth, "pixels_original", PAGE) == expected


def test_a_flood_of_boxes_is_cut_and_counted() -> None:
    found = answered_marks("[1,2,3,4]," * 10_000, "pixels_original", PAGE)
    assert (len(found.boxes), found.more) == (MAX_MARKS, 10_000 - MAX_MARKS)


def test_a_hostile_answer_is_read_in_linear_time() -> None:
    digits = "1" * 100_000
    started = time.process_time()
    for text in (
        *("[" * 50_000, "{" * 50_000, "[1," * 50_000, "<answer>" * 20_000, '{"label":' * 20_000),
        *(
            "<box>" * 50_000,
            "<points " * 50_000,
            "<loc0001>" * 3 + " " * 200_000,
            "(x=" * 50_000,
            "(x=1,y" + digits,
        ),
        *(
            f"[{digits}",
            f"[{digits}.{digits},1",
            f"[1,2,3,{digits}]",
            f"[1,2,3,1e{digits}]",
            f"{{[{digits}}}",
        ),
        *('{"point_2d":' * 20_000 + " " * 100_000, f'<points x1="{digits}" y1="1">'),
    ):
        assert answered_marks(text, "pixels_original", PAGE) in (Marks(), Marks(unplaced=1))
    assert time.process_time() - started < 5
