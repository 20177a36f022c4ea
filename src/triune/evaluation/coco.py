"""The data set's mAP by faster-coco-eval, a maintained C++ implementation of COCO's evaluation; imported nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from triune.core.errors import RecipeError
from triune.evaluation.detection import Boxes
from triune.verify.geometry import area

_STATS = ("map", "map50", "map75", "map_small", "map_medium", "map_large")


@dataclass(frozen=True, slots=True)
class DatasetMap:
    """COCO's figures over a data set; None where undefined (no true box of that size).

    `by_label`: AP at IoU .5:.05:.95 of every label that has truth. `without_truth`: predictions by label that no picture's
    truth has. COCO's protocol has no category for those and so does not see them: `strict` counts each such label as
    one with AP 0.
    """

    figures: dict[str, float | None]
    by_label: dict[str, float]
    without_truth: dict[str, int]

    @property
    def strict(self) -> float | None:
        if not self.by_label:
            return None
        return sum(self.by_label.values()) / (len(self.by_label) + len(self.without_truth))


def library() -> tuple[Any, Any]:
    """COCO and COCOeval_faster; raises RecipeError where the `coco` extra is not installed."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise RecipeError("mAP over a data set needs faster-coco-eval: pip install 'triune[coco]'") from error
    return COCO, COCOeval_faster


def dataset_map(pictures: Sequence[Boxes]) -> DatasetMap:
    """mAP over pictures: AP at IoU .5:.05:.95 and at .5 and .75, the mean over labels with truth; by size of the object.

    Raises RecipeError where the `coco` extra is not installed.
    """
    COCO, COCOeval_faster = library()
    labels = sorted({label for p in pictures for label in p.truth_labels})
    regions_only = {label for p in pictures for label in p.crowd_labels}
    ids = {label: number for number, label in enumerate(labels, start=1)}
    missing: dict[str, int] = {}
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, start=1):
        objects = zip(picture.truth, picture.truth_labels, picture.areas, repeat(0))
        crowds = zip(picture.crowd, picture.crowd_labels, area(picture.crowd), repeat(1))
        for box, label, size, crowd in (*objects, *crowds):
            if label in ids:
                one = {"id": len(truth) + 1, "image_id": number, "category_id": ids[label]}
                truth.append({**one, "bbox": _xywh(box), "area": float(size), "iscrowd": crowd})
        for box, label, score in zip(picture.boxes, picture.labels, picture.scores, strict=True):
            if label in ids:
                found.append(
                    {"image_id": number, "category_id": ids[label], "bbox": _xywh(box), "score": float(score)}
                )
            elif label not in regions_only:
                missing[label] = missing.get(label, 0) + 1
    if not labels:
        return DatasetMap(dict.fromkeys(_STATS), {}, missing)
    reference = COCO(
        {
            "info": {},
            "images": [{"id": number} for number in range(1, len(pictures) + 1)],
            "categories": [{"id": number, "name": label} for label, number in ids.items()],
            "annotations": truth,
        }
    )
    evaluator = COCOeval_faster(reference, reference.loadRes(found), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray(evaluator.eval["precision"])  # [T, R, K, A, M], -1 where undefined
    iou = np.asarray(evaluator.params.iouThrs)

    def over(part: np.ndarray) -> float | None:
        defined = part[part > -1]
        return float(defined.mean()) if defined.size else None

    whole = precision[:, :, :, 0, -1]
    values = [
        over(whole),
        *(over(whole[np.isclose(iou, at)]) for at in (0.5, 0.75)),
        *(over(precision[:, :, :, size, -1]) for size in (1, 2, 3)),
    ]
    by_label = {label: over(whole[:, :, number - 1]) for label, number in ids.items()}
    return DatasetMap(
        dict(zip(_STATS, values, strict=True)),
        {label: value for label, value in by_label.items() if value is not None},
        missing,
    )


def _xywh(box: np.ndarray) -> list[float]:
    # COCO ignores boxes of more than 1e10 square pixels; an absurdly large one must stay a false positive.
    x1, y1, x2, y2 = (float(x) for x in np.clip(box, -4e4, 4e4))
    return [x1, y1, x2 - x1, y2 - y1]
