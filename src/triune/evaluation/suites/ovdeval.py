"""OVDEval: open-vocabulary detection with hard negatives, scored by NMS-AP (Yao et al. 2024; om-ai-lab/OVDEval)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from triune.core.sample import Frame, Sample
from triune.data.rows import Row
from triune.evaluation.annotations import Annotations
from triune.evaluation.coco import library
from triune.evaluation.detection import Boxes, suppress_by_truth
from triune.evaluation.number import Number, count
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import SUITES, Loaded
from triune.evaluation.suites.detection import CocoFile, dataset_numbers


@SUITES.register("ovdeval")
class OVDEval(CocoFile):
    """One annotation file of OVDEval (`annotations/material.json`) with its pictures (`images/material/`).

    Every picture is asked for its own positive labels (`text`) and hard negatives (`neg_text`); where the file has
    none (celebrity, logo, landmark, coco), for all of the file's categories, as the released `eval_glip.py` does.

    `nms_ap` is COCO's AP (IoU .5:.05:.95, all sizes, 100 boxes a label and picture) of what is left of the predictions
    after `suppress_by_truth`: on every true box only the best-scored prediction survives, whatever its label. `ap` is the
    same without suppression: what a model gains by claiming every label at once is the difference.
    """

    scoring: ClassVar[tuple[str, ...]] = ("scores", "aliases", "nms_iou")
    shown: ClassVar[tuple[str, ...]] = ("nms_ap", "nms_ap50", "ap", "ap50", "boxes_suppressed")

    kind: Literal["ovdeval"] = "ovdeval"
    nms_iou: float = Field(
        0.5, ge=0, le=1, description="predictions with a larger IoU to a true box compete for it"
    )

    def load(self, frame: Frame) -> Loaded:
        library()  # it scores the answers: to be missed now, not after hours
        file = Annotations.read(self.data)

        def make(row: Row) -> Iterator[Sample]:
            asked = [*row.get("text", list, []), *row.get("neg_text", list, [])]
            yield self.question(row, frame, list(dict.fromkeys(asked)) or list(file.labels.values()), file)

        return self.collect((self.row(image, n) for n, image in enumerate(file.images)), make)

    def numbers(self, rows: Sequence[Prediction]) -> dict[str, Number]:
        before = [self.boxes(row) for row in rows if row.judged]
        if not before:
            return {}
        after = [suppress_by_truth(picture, self.nms_iou) for picture in before]
        gone = sum(len(a.boxes) - len(b.boxes) for a, b in zip(before, after, strict=True))
        return {
            **_figures("nms_", after),
            **_figures("", before),
            "boxes_predicted": count(sum(len(picture.boxes) for picture in before), len(rows)),
            "boxes_suppressed": count(gone, len(rows)),
        }


def _figures(prefix: str, pictures: Sequence[Boxes]) -> dict[str, Number]:
    whole, found = dataset_numbers(pictures)
    return {
        **{f"{prefix}{name.replace('map', 'ap')}": value for name, value in found.items()},
        f"{prefix}boxes_without_known_label": count(sum(whole.without_truth.values()), len(pictures)),
    }
