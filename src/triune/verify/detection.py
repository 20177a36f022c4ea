"""The verifier of a set of labelled boxes (object detection, and grounding of several objects)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, model_validator

from triune.core.sample import Sample
from triune.core.verdict import Outcome
from triune.verify.boxes import (
    BoxParams,
    ItemParams,
    Threshold,
    effective_thresholds,
    logged_threshold,
    read_items,
    reference_boxes,
)
from triune.verify.extract import normalise
from triune.verify.geometry import F64, as_boxes, convert, iou_matrix
from triune.verify.matching import (
    COCO_THRESHOLDS,
    match_greedy,
    match_hungarian,
    match_iou_first,
    mean_f1,
    measures,
    ranked_ap,
)
from triune.verify.verifier import Case, Context, InvalidReference, Score, Unparsed, Verifier, register


class DetectionParams(ItemParams, BoxParams):
    """Of `detection`. `form` of the value, with M matched pairs of IoU >= `iou` among n predictions and m references:

    - `f1`: 2M / (n + m);
    - `iou_completeness` (V-Triune): (1 - c) * sum of matched IoU / m + c * completeness, with c = `completeness`;
    - `ap_ranked`: average precision at `iou`, the order of emission declared as the ranking; `map_ranked`: its mean
      over .5:.05:.95;
    - `f1_mean`: mean F1 over .5:.05:.95, which needs no ranking.

    With `iou: average` the value is the mean over V-Triune's eleven thresholds, each with its own matches.
    """

    form: Literal["f1", "iou_completeness", "ap_ranked", "map_ranked", "f1_mean"] = Field(
        "f1", description="what the value is"
    )
    matcher: Literal["hungarian", "greedy", "iou_first"] = Field(
        "hungarian",
        description="of the first two forms: largest total IoU, best pair of one label first, or V-Triune's other one: "
        "best pair first, its labels compared afterwards",
    )
    completeness: Threshold = Field(0.3, description="c of `iou_completeness`")
    size_penalty: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="the value is multiplied by this^|n - m|; default: .6 with `iou_completeness`, as in V-Triune, else 1",
    )

    @model_validator(mode="after")
    def _over_prediction_costs(self) -> DetectionParams:
        if self.form == "iou_completeness" and self.completeness == 0 and self.size_penalty == 1:
            raise ValueError("completeness 0 with size_penalty 1 would make false boxes free")
        return self

    def penalty(self, num_pred: int, num_ref: int) -> float:
        """What the value is multiplied by for a wrong number of boxes."""
        default = 0.6 if self.form == "iou_completeness" else 1.0
        return float((self.size_penalty or default) ** abs(num_pred - num_ref))


class Reference(NamedTuple):
    """Boxes f64[m, 4] in the sample's frame, and their normalised labels."""

    boxes: F64
    labels: tuple[str, ...]


_TWO: JsonValue = {"boxes": [[0, 0, 100, 100], [200, 200, 300, 300]], "labels": ["cat", "dog"]}
_CAT = '{"bbox_2d": [0, 0, 100, 100], "label": "cat"}'
_DOG = '{"bbox_2d": [200, 200, 300, 250], "label": "Dog"}'
_WRONG_NAME = '{"bbox_2d": [0, 0, 100, 100], "label": "dog"}, {"bbox_2d": [0, 0, 100, 60], "label": "cat"}'
_NONE: JsonValue = {"boxes": [], "labels": []}


@register("detection")
class Detection(Verifier[DetectionParams, Reference]):
    """Predictions `[{"bbox_2d": [x1, y1, x2, y2], "label": "name"}, ...]` against `{"boxes": ..., "labels": ...}`.

    A bad item (no area, not finite, no label, ...) counts as a prediction that matches nothing. Correct: F1 at IoU .5
    is 1 (all found, nothing else claimed), whatever the form and the schedule of the reward.
    """

    Params = DetectionParams
    cases = (
        Case(f"<answer>[{_DOG}, {_CAT}]</answer>", 1.0, truth=_TWO, correct=True),
        Case(f"<answer>[{_DOG}, {_CAT}]</answer>", 0.5, truth=_TWO, params={"iou": 0.9}, correct=True),
        Case(f"<answer>[{_CAT}]</answer>", 2 / 3, truth=_TWO, correct=False),
        Case(f"<answer>[{_CAT}]</answer>", 0.6 * 0.575, truth=_TWO, params={"form": "iou_completeness"}),
        Case(f"<answer>[{_CAT}, {_DOG}]</answer>", 0.55, truth=_TWO, params={"form": "map_ranked"}),
        Case(f"<answer>[{_CAT}, {_DOG}]</answer>", 0.55, truth=_TWO, params={"form": "f1_mean"}),
        Case(
            f"<answer>[{_DOG}, {_CAT}]</answer>", 0.25, truth=_TWO, params={"form": "ap_ranked", "iou": 0.9}
        ),
        Case(f"<answer>[{_CAT}, {_CAT}, {_DOG}]</answer>", 0.8, truth=_TWO, params={"matcher": "greedy"}),
        Case(f"<answer>[{_WRONG_NAME}]</answer>", 0.5, truth=_TWO, params={"matcher": "greedy"}),
        Case(f"<answer>[{_WRONG_NAME}]</answer>", 0.0, truth=_TWO, params={"matcher": "iou_first"}),
        Case(f"<answer>[{_CAT}, {_CAT}, {_DOG}]</answer>", 0.8, truth=_TWO, params={"matcher": "iou_first"}),
        Case(
            f"<answer>[{_DOG}, {_CAT}]</answer>",
            (0.825 + 10 * 0.5) / 11,
            truth=_TWO,
            params={"form": "iou_completeness", "iou": "average"},
        ),
        Case(
            f"<answer>[{_CAT}, {_DOG}, {_CAT}]</answer>",
            0.6 * 0.55,
            truth=_TWO,
            params={"form": "map_ranked", "size_penalty": 0.6},
        ),
        Case('<answer>[{"bbox_2d": [0, 0, 100, 100], "label": "cow"}]</answer>', 0.0, truth=_TWO),
        Case("<answer>[[0, 0, 100, 100]]</answer>", 2 / 3, truth=_TWO, params={"labels": False}),
        Case("<answer>[]</answer>", 0.0, truth=_TWO),
        Case("<answer>[]</answer>", 1.0, truth=_NONE, correct=True),
        Case(f"<answer>[{_CAT}]</answer>", 0.0, truth=_NONE, correct=False),
        Case(f"<answer>[{_CAT}, {_DOG}", 0.0, truth=_TWO, status="unparsed", correct=False),
        Case("<answer>[]</answer>", None, truth={"boxes": [[0, 0, 9, 9]]}, status="invalid_reference"),
    )

    def prepare(self, truth: JsonValue, sample: Sample, params: DetectionParams) -> Reference:
        if not isinstance(truth, dict) or not set(truth) <= {"boxes", "labels"}:
            raise InvalidReference(f'{{"boxes": [...], "labels": [...]}} is needed, found {truth!r}'[:200])
        boxes = reference_boxes(truth.get("boxes"), sample, params.image)
        if not params.labels:
            return Reference(boxes, ("",) * len(boxes))
        labels = truth.get("labels")
        if not isinstance(labels, list) or not all(
            isinstance(label, str) and label.strip() for label in labels
        ):
            raise InvalidReference(f"labels must be a list of names, found {labels!r}"[:200])
        if len(labels) != len(boxes):
            raise InvalidReference(f"{len(boxes)} boxes but {len(labels)} labels")
        return Reference(boxes, tuple(normalise(str(label), lower=True) for label in labels))

    def score(
        self, outcome: Outcome, reference: Reference, params: DetectionParams, context: Context
    ) -> Score:
        target = convert(reference.boxes, context.sample.frame, outcome.frame, outcome, params.image)
        thresholds = effective_thresholds(params, target, outcome.frame)
        try:
            items = read_items(outcome.text, params)
        except Unparsed as reason:
            # Unreadable is not "nothing there": it earns nothing even where nothing is.
            metrics = measures(np.zeros((0, max(1, len(target))))) | {"num_ref": float(len(target))}
            metrics |= logged_threshold(thresholds)
            return Score(0.0, "unparsed", str(reason), metrics, correct=False)
        overlap = np.zeros((len(items), len(target)))
        same = np.zeros(overlap.shape, dtype=bool)
        good = [row for row, item in enumerate(items) if item is not None]
        labels = [item[1] for item in items if item is not None]
        overlap[good] = iou_matrix(as_boxes([item[0] for item in items if item is not None]), target)
        same[good] = np.array([[a == b for b in reference.labels] for a in labels]).reshape(
            len(good), len(target)
        )
        metrics = measures(overlap * same) | logged_threshold(thresholds)
        detail = f"{len(items)} predicted, {len(items) - len(good)} bad, {len(target)} in the reference"
        value = sum(_value(overlap, same, one, params) for one in thresholds) / len(thresholds)
        return Score(
            value * params.penalty(*overlap.shape),
            detail=detail,
            metrics=metrics,
            correct=metrics["f1@50"] >= 1,
        )


def _value(overlap: F64, same: NDArray[np.bool_], threshold: float, params: DetectionParams) -> float:
    """The form's value at one threshold, before the size penalty; `overlap` whatever the labels, `same` where equal."""
    labelled = overlap * same
    if params.form == "ap_ranked":
        return float(ranked_ap(labelled, np.array([threshold]))[0])
    if params.form == "map_ranked":
        return float(ranked_ap(labelled, COCO_THRESHOLDS).mean())
    if params.form == "f1_mean":
        return mean_f1(labelled)
    if params.matcher == "iou_first":
        matches = match_iou_first(overlap, same, threshold)
    else:
        matches = (match_hungarian if params.matcher == "hungarian" else match_greedy)(labelled, threshold)
    if params.form == "f1":
        return matches.f1()
    return (1 - params.completeness) * matches.mean_iou() + params.completeness * matches.completeness()
