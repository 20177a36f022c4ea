"""Average precision: against pycocotools on drawn cases, the library and the resampler against each other, and by hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.evaluation.coco import dataset_map
from triune.evaluation.detection import Boxes, Resampler, image_ap, suppress_by_truth

CAT, DOG = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0]


@st.composite
def pictures(draw: st.DrawFn, most: int = 4) -> list[Boxes]:
    """Pictures with ties of score, crowd regions, labels that no truth has, empty truth and empty predictions."""
    side = st.integers(0, 5)

    def box() -> list[float]:
        x, y, w, h = draw(side) * 20, draw(side) * 20, (draw(side) + 1) * 15, (draw(side) + 1) * 15
        return [float(x), float(y), float(x + w), float(y + h)]

    def pairs(labels: str, limit: int) -> list[tuple[list[float], str]]:
        return [(box(), draw(st.sampled_from(labels))) for _ in range(draw(st.integers(0, limit)))]

    found = []
    for _ in range(draw(st.integers(1, most))):
        truth = pairs("ab", 4)
        # Some predictions repeat a true box, so that there is something to be right about.
        said = [*(draw(st.lists(st.sampled_from(truth), max_size=4)) if truth else []), *pairs("abz", 3)]
        said = draw(st.permutations(said))
        scores = [draw(st.sampled_from([1.0, 0.5, 0.25])) for _ in said]
        found.append(Boxes.of(said, truth, scores=scores, crowd=pairs("ab", 1)))
    return found


def oracle(found: list[Boxes]) -> np.ndarray | None:
    """pycocotools' precision [T, R, K, A] at 100 detections; None where no label has truth."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    labels = sorted({label for p in found for label in p.truth_labels})
    if not labels:
        return None
    truth: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for number, p in enumerate(found, start=1):
        for boxes, names, crowd in ((p.truth, p.truth_labels, 0), (p.crowd, p.crowd_labels, 1)):
            for (x1, y1, x2, y2), name in zip(boxes.tolist(), names, strict=True):
                if name in labels:
                    box = [x1, y1, x2 - x1, y2 - y1]
                    truth.append({"id": len(truth) + 1, "image_id": number, "category_id": labels.index(name) + 1,
                                  "bbox": box, "area": box[2] * box[3], "iscrowd": crowd})  # fmt: skip
        for (x1, y1, x2, y2), name, score in zip(p.boxes.tolist(), p.labels, p.scores.tolist(), strict=True):
            if name in labels:
                said.append({"image_id": number, "category_id": labels.index(name) + 1, "score": score,
                             "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "images": [{"id": n} for n in range(1, len(found) + 1)],
            "categories": [{"id": n} for n in range(1, len(labels) + 1)],
            "annotations": truth,
        }
        reference.createIndex()
        if not said:  # pycocotools cannot load an empty list
            return np.zeros((10, 101, len(labels), 1))
        evaluator = COCOeval(reference, reference.loadRes(said), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"][..., -1])


def over(part: np.ndarray) -> float | None:
    return float(part[part > -1].mean()) if (part > -1).any() else None


@settings(max_examples=40, deadline=None)
@given(pictures())
def test_the_data_sets_map_is_pycocotools(found: list[Boxes]) -> None:
    precision = oracle(found)
    figures = dataset_map(found).figures
    if precision is None:
        assert set(figures.values()) == {None}
        return
    assert figures["map"] == pytest.approx(over(precision[..., 0]))
    assert figures["map50"] == pytest.approx(over(precision[0, ..., 0]))
    assert figures["map75"] == pytest.approx(over(precision[5, ..., 0]))
    for size, name in enumerate(("map_small", "map_medium", "map_large")[: precision.shape[-1] - 1], start=1):
        assert figures[name] == pytest.approx(over(precision[..., size]))


@settings(max_examples=40, deadline=None)
@given(pictures(most=1))
def test_a_pictures_map_is_pycocotools_on_that_picture(found: list[Boxes]) -> None:
    precision = oracle(found)
    if precision is not None:
        assert image_ap(found[0]).mean() == pytest.approx(over(precision[..., 0]))
        assert image_ap(found[0])[0] == pytest.approx(over(precision[0, ..., 0]))


@settings(max_examples=40, deadline=None)
@given(pictures(), st.data())
def test_resampling_counts_pictures_as_if_they_were_there_as_often(
    found: list[Boxes], data: st.DataObject
) -> None:
    sampler = Resampler(found)
    once = sampler.ap(np.ones(len(found), int))
    whole = dataset_map(found).figures["map"]
    assert (None if once is None else pytest.approx(float(once.mean()))) == whole
    counts = np.array([data.draw(st.integers(0, 2)) for _ in found])
    repeated = [p for p, n in zip(found, counts, strict=True) for _ in range(n)]
    drawn = sampler.ap(counts)
    expected = dataset_map(repeated).figures["map"] if repeated else None
    assert (None if drawn is None else pytest.approx(float(drawn.mean()))) == expected


def test_a_picture_without_truth_is_right_only_without_predictions() -> None:
    assert image_ap(Boxes.of([], [])).mean() == 1
    assert image_ap(Boxes.of([(CAT, "cat")], [])).mean() == 0
    in_a_crowd = Boxes.of([(CAT, "cat")], [], crowd=[([0.0, 0.0, 50.0, 50.0], "cat")])
    assert image_ap(in_a_crowd).mean() == 1
    assert image_ap(Boxes.of([], [(CAT, "cat")])).mean() == 0


def test_an_invented_label_is_free_for_coco_and_counted_here() -> None:
    picture = Boxes.of([(CAT, "cat"), (DOG, "unicorn")], [(CAT, "cat")])
    assert image_ap(picture).mean() == pytest.approx(1)
    assert image_ap(picture, strict=True).mean() == pytest.approx(0.5)
    whole = dataset_map([picture])
    assert whole.figures["map"] == pytest.approx(1)
    assert whole.strict == pytest.approx(0.5)
    assert whole.without_truth == {"unicorn": 1}


def test_with_equal_scores_the_order_of_emission_is_the_ranking() -> None:
    right_first = Boxes.of([(CAT, "cat"), (DOG, "cat")], [(CAT, "cat")])
    wrong_first = Boxes.of([(DOG, "cat"), (CAT, "cat")], [(CAT, "cat")])
    assert image_ap(right_first).mean() == pytest.approx(1)
    assert image_ap(wrong_first).mean() == pytest.approx(0.5)


def test_scores_by_order_rank_first_boxes_of_all_pictures_first() -> None:
    pair = [
        Boxes.of([(CAT, "cat"), (DOG, "cat")], [(CAT, "cat")], scores=scores) for scores in ("equal", "order")
    ]
    equal = dataset_map([pair[0], pair[0]]).figures["map"]
    order = dataset_map([pair[1], pair[1]]).figures["map"]
    assert order == pytest.approx(1)
    # right, wrong, right, wrong: precision 1 up to half the recall (51 of 101 points), then 2/3.
    assert equal == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_an_absurdly_large_box_stays_a_false_positive() -> None:
    huge = [-1e8, -1e8, 1e8, 1e8]
    picture = Boxes.of([(huge, "cat"), (CAT, "cat")], [(CAT, "cat")])
    assert dataset_map([picture]).figures["map"] == pytest.approx(0.5)
    assert image_ap(picture).mean() == pytest.approx(0.5)


# -- NMS-AP --------------------------------------------------------------------------------------------------------------


def claims(order: str, truth: str) -> Boxes:
    """The same box under every label, in this order, on one object."""
    return Boxes.of([(CAT, label) for label in order], [(CAT, truth)])


def test_claiming_every_label_on_one_box_inflates_ap_and_not_nms_ap() -> None:
    every = [claims("ab", "a"), claims("ab", "b")]
    # Label a: right in picture 1, wrong in 2. Label b: wrong in 1, right in 2: precision 1/2.
    assert dataset_map(every).figures["map"] == pytest.approx((1 + 0.5) / 2)
    kept = [suppress_by_truth(picture) for picture in every]
    assert [picture.labels for picture in kept] == [("a",), ("a",)]
    assert dataset_map(kept).figures["map"] == pytest.approx((1 + 0) / 2)
    honest = [claims("a", "a"), claims("b", "b")]
    assert dataset_map([suppress_by_truth(p) for p in honest]).figures["map"] == pytest.approx(1)


def test_the_best_scored_of_a_true_box_survives_whatever_its_label() -> None:
    picture = Boxes.of([(CAT, "a"), (CAT, "b"), (DOG, "b")], [(CAT, "a")], scores=[0.3, 0.9, 0.1])
    kept = suppress_by_truth(picture)
    assert kept.labels == ("b", "b")  # the box on no true object stays: AP judges it
    assert kept.scores.tolist() == [0.9, 0.1]


def test_what_one_true_box_keeps_another_does_not_remove() -> None:
    near = [1.0, 0.0, 11.0, 10.0]
    picture = Boxes.of([(CAT, "a"), (near, "a")], [(CAT, "a"), (near, "a")], scores=[0.9, 0.8])
    # Both true boxes overlap both predictions; each keeps the best, which is the same one, so the other goes.
    assert suppress_by_truth(picture).scores.tolist() == [0.9]
    apart = Boxes.of([(CAT, "a"), (DOG, "a")], [(CAT, "a"), (DOG, "a")])
    assert len(suppress_by_truth(apart).boxes) == 2


def test_suppression_needs_more_than_the_threshold() -> None:
    half = [0.0, 0.0, 10.0, 5.0]  # IoU .5 with the true box, which is not more than .5
    picture = Boxes.of([(CAT, "a"), (half, "b")], [(CAT, "a")])
    assert suppress_by_truth(picture).labels == ("a", "b")
    assert suppress_by_truth(picture, 0.4).labels == ("a",)
