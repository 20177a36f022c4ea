"""Average precision over boxes, as COCO defines it: per picture, and over resampled pictures; and OVDEval's suppression.

A language model gives no confidences. `scores: equal` gives every box 1.0, as V-Triune does, so that emission order breaks
every tie (COCO's sort is stable); `scores: order` says that what is written first is meant most (1, 1/2, 1/3, ...).

The figures over a whole data set come from a maintained library (`triune.evaluation.coco`); the same definition is
written out here because it is also needed per picture and for a thousand resamples. Tests hold the three together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from triune.verify.geometry import F64, area, as_boxes, iou_matrix
from triune.verify.matching import COCO_THRESHOLDS

Scores = Literal["equal", "order"]
MAX_DETECTIONS = 100
"""COCO's limit: of one label in one picture, the hundred with the highest scores count."""

_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class Boxes:
    """Predictions and truth of one picture, in one frame, labels normalised; every box has x1 <= x2 and y1 <= y2.

    boxes f64[n, 4] in order of emission, scores f64[n]; truth f64[m, 4] with `areas` f64[m] (COCO: of the object's mask;
    they decide small, medium, large); crowd f64[c, 4]: regions in which boxes of that label are neither right nor wrong.
    """

    boxes: F64
    labels: tuple[str, ...]
    scores: F64
    truth: F64
    truth_labels: tuple[str, ...]
    areas: F64 = field(default_factory=lambda: np.zeros(0))
    crowd: F64 = field(default_factory=lambda: np.zeros((0, 4)))
    crowd_labels: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        items: Sequence[tuple[Sequence[float], str]],
        truth: Sequence[tuple[Sequence[float], str]],
        *,
        scores: Scores | Sequence[float] = "equal",
        areas: Sequence[float] | None = None,
        crowd: Sequence[tuple[Sequence[float], str]] = (),
    ) -> Boxes:
        """From (box, label) pairs."""
        n = len(items)
        given = (
            (np.ones(n) if scores == "equal" else 1.0 / np.arange(1, n + 1))
            if isinstance(scores, str)
            else scores
        )
        found = as_boxes([box for box, _ in truth])
        return cls(
            as_boxes([box for box, _ in items]),
            tuple(label for _, label in items),
            np.asarray(given, np.float64),
            found,
            tuple(label for _, label in truth),
            area(found) if areas is None else np.asarray(areas, np.float64),
            as_boxes([box for box, _ in crowd]),
            tuple(label for _, label in crowd),
        )


@dataclass(frozen=True, slots=True)
class _Matched:
    """The predictions of one label in one picture, best first: scores f64[n], right bool[T, n], ignored bool[T, n]."""

    scores: F64
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    num_truth: int


def _match(picture: Boxes, label: str) -> _Matched:
    """COCO's matching (pycocotools, COCOeval.evaluateImg): in order of score, each prediction takes the free true box with
    the largest IoU >= threshold; one that finds none may lie in a crowd region (intersection over its own area)."""
    chosen = np.flatnonzero([name == label for name in picture.labels])
    chosen = chosen[np.argsort(-picture.scores[chosen], kind="stable")][:MAX_DETECTIONS]
    boxes = picture.boxes[chosen]
    overlap = iou_matrix(boxes, picture.truth[[name == label for name in picture.truth_labels]])
    inside = _covered(boxes, picture.crowd[[name == label for name in picture.crowd_labels]])
    n, m = overlap.shape
    right, ignored = np.zeros((2, len(COCO_THRESHOLDS), n), bool)
    for t, threshold in enumerate(COCO_THRESHOLDS):
        free = np.ones(m, bool)
        for i in range(n):
            candidates = np.where(free, overlap[i], -1.0)
            # Of several equal ones COCO takes the last.
            best = m - 1 - int(candidates[::-1].argmax()) if m else -1
            if best >= 0 and candidates[best] >= threshold:
                right[t, i], free[best] = True, False
            else:
                ignored[t, i] = bool((inside[i] >= threshold).any())
    return _Matched(picture.scores[chosen], right, ignored, m)


def _covered(boxes: F64, regions: F64) -> F64:
    """The share of each box's own area that lies in each region, f64[n, c]."""
    if not len(boxes) or not len(regions):
        return np.zeros((len(boxes), len(regions)))
    a, b = boxes[:, None, :], regions[None, :, :]
    inner = np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)
    return np.asarray(area(inner) / np.maximum(area(boxes), 1e-300)[:, None])


def _average_precision(right: NDArray[np.bool_], ignored: NDArray[np.bool_], num_truth: int) -> F64:
    """AP f64[T] of predictions in the order of their scores: precision at 101 recalls, each the best at that recall or
    a higher one (COCOeval.accumulate)."""
    n = right.shape[1]
    true = right.cumsum(axis=1)
    precision = true / ((~ignored).cumsum(axis=1) + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # Beyond the last recall reached, precision is 0.
    best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
    at = [np.minimum(np.searchsorted(row, _RECALLS, side="left"), n) for row in true / num_truth]
    return np.asarray(best[np.arange(len(best))[:, None], np.array(at)].mean(axis=1))


def image_ap(picture: Boxes, *, strict: bool = False) -> F64:
    """AP f64[T] of one picture at IoU .5:.05:.95: the mean over the labels of its truth (V-Triune's per-sample mAP).

    `strict`: predicted labels that the truth has not are labels with AP 0; without, inventing labels is free (defect V17).
    A picture with no true box scores 1 without predictions (in crowd regions they do not count) and 0 with any.
    """
    labels = sorted(set(picture.truth_labels))
    if not labels:
        claimed = [_match(picture, label).ignored for label in set(picture.labels)]
        return (
            np.min([ignored.all(axis=1) for ignored in claimed], axis=0).astype(float)
            if claimed
            else _ONES.copy()
        )
    found = [
        _average_precision(m.right, m.ignored, m.num_truth) for m in (_match(picture, x) for x in labels)
    ]
    others = (
        {label for label in set(picture.labels) - set(labels) if not _match(picture, label).ignored.all()}
        if strict
        else set()
    )
    return np.asarray(np.sum(found, axis=0) / (len(found) + len(others)))


_ONES = np.ones(len(COCO_THRESHOLDS))


class Resampler:
    """AP over a data set of pictures, each counted as often as asked: what the bootstrap of a data set's mAP needs.

    `ap(counts)` f64[T] is the mean over the labels that have truth in the pictures drawn; None if there is none.
    """

    def __init__(self, pictures: Sequence[Boxes]) -> None:
        self._labels: list[tuple[NDArray[Any], _Matched, NDArray[Any]]] = []
        where: dict[str, list[int]] = defaultdict(list)
        for number, picture in enumerate(pictures):
            for label in {*picture.truth_labels, *picture.labels}:
                where[label].append(number)
        for label in sorted({label for p in pictures for label in p.truth_labels}):
            parts = [_match(pictures[number], label) for number in where[label]]
            owner = np.repeat(where[label], [len(m.scores) for m in parts])
            truths = np.zeros(len(pictures), int)
            truths[where[label]] = [m.num_truth for m in parts]
            scores = np.concatenate([m.scores for m in parts])
            right = np.concatenate([m.right for m in parts], axis=1)
            ignored = np.concatenate([m.ignored for m in parts], axis=1)
            self._labels.append((owner, _Matched(scores, right, ignored, int(truths.sum())), truths))

    def ap(self, counts: NDArray[Any]) -> F64 | None:
        found = []
        for owner, whole, truths in self._labels:
            num_truth = int((truths * counts).sum())
            if not num_truth:
                continue
            times = counts[owner]
            drawn = np.repeat(np.arange(len(owner)), times)
            copy = np.arange(len(drawn)) - np.repeat(times.cumsum() - times, times)
            # By score; ties in the order of pictures, each copy of one whole before the next.
            order = drawn[np.lexsort((drawn, copy, owner[drawn], -whole.scores[drawn]))]
            found.append(_average_precision(whole.right[:, order], whole.ignored[:, order], num_truth))
        return np.asarray(np.mean(found, axis=0)) if found else None


def suppress_by_truth(picture: Boxes, threshold: float = 0.5) -> Boxes:
    """The class-ignored suppression of NMS-AP (Yao et al. 2024, section 4; om-ai-lab/OVDEval, eval.py, `nms_threaded`).

    For every true box: of all predictions, whatever their label, with IoU > `threshold`, the one with the highest score is
    kept and the others are removed, unless they are the ones kept for another true box. Predictions on no true box stay.
    So a model that answers a hard negative with the same box under every label keeps one of them, not all.
    Of equal scores the first written is kept; the released script leaves that to its sort.
    """
    overlap = (
        iou_matrix(picture.truth, picture.boxes) if len(picture.boxes) else np.zeros((len(picture.truth), 0))
    )
    kept: set[int] = set()
    gone: set[int] = set()
    for row in overlap:
        group = np.flatnonzero(row > threshold)
        group = group[np.argsort(-picture.scores[group], kind="stable")]
        kept |= set(group[:1].tolist())
        gone |= set(group[1:].tolist())
    stays = [i for i in range(len(picture.boxes)) if i in kept or i not in gone]
    return replace(
        picture,
        boxes=picture.boxes[stays],
        labels=tuple(picture.labels[i] for i in stays),
        scores=picture.scores[stays],
    )


def renamed(picture: Boxes, aliases: Mapping[str, str]) -> Boxes:
    """Predicted labels by another name (`aliases`: normalised label -> the truth's)."""
    return replace(picture, labels=tuple(aliases.get(label, label) for label in picture.labels))
