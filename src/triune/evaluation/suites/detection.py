"""Object detection on a COCO annotation file and a folder of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from triune.core.sample import Check, Frame, Sample
from triune.data.rows import Row
from triune.evaluation.annotations import Annotations
from triune.evaluation.coco import DatasetMap, dataset_map, library
from triune.evaluation.detection import Boxes, Resampler, Scores, image_ap, renamed
from triune.evaluation.number import Number, count, draws, mean, resampled
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import COORDINATES, PLACES, SUITES, Loaded, Suite, save, worded
from triune.verify.extract import normalise
from triune.verify.geometry import as_boxes, convert

PROMPT = (
    "Detect every instance of the following categories in the image: {labels}. "
    'Write a JSON list with one item per instance, {"bbox_2d": [x1, y1, x2, y2], "label": "category"}, '
    "with coordinates {coordinates}, {place}. Write [] if there is none."
)
UNREADABLE = "(unreadable item)"
"""The label of an item without a valid box or label: a claim that can be right nowhere."""


class CocoFile(Suite):
    """What detection suites share: a COCO annotation file, and boxes asked for by name."""

    scoring: ClassVar[tuple[str, ...]] = ("scores", "aliases")

    prompt: str = Field(PROMPT, description="wording; {labels}, {coordinates} and {place} are filled in")
    scores: Scores = Field(
        "equal", description="a model gives no confidences: all equal, or falling in order of emission"
    )
    aliases: dict[str, str] = Field(
        default_factory=dict, description="other names of categories: {television: tv}"
    )
    out: Path | None = Field(
        None, description="also write the boxes as a COCO results file, which official scripts read"
    )

    def question(self, row: Row, frame: Frame, names: Sequence[str], file: Annotations) -> Sample:
        """One picture of the file: `names` are asked for."""
        truth, labels = file.of(row), file.labels
        boxes = []
        for one in truth:
            x, y, width, height = one["bbox"]
            if min(width, height) <= 0:
                raise row.error("invalid", f"annotation {one.get('id')}: bbox {one['bbox']} has no area")
            boxes.append((one, [x, y, x + width, y + height]))
        found = [(one, box) for one, box in boxes if not one.get("iscrowd")]
        crowd = [(one, box) for one, box in boxes if one.get("iscrowd")]
        text = worded(
            self.prompt, labels=", ".join(names), coordinates=COORDINATES[frame], place=PLACES[self.answer]
        )
        return self.ask(
            row.with_values(image=row.need("file_name", str)),
            text,
            id=f"{self.source}/{row.need('id', object)}",
            truth={
                "boxes": [box for _, box in found],
                "labels": [labels[one["category_id"]] for one, _ in found],
            },
            checks=[Check(verifier="detection", params={"answer": self.answer})],
            meta={
                "image_id": row.need("id", int),
                "areas": [float(one.get("area", one["bbox"][2] * one["bbox"][3])) for one, _ in found],
                "crowd": {
                    "boxes": [box for _, box in crowd],
                    "labels": [labels[one["category_id"]] for one, _ in crowd],
                },
            },
        )

    def boxes(self, row: Prediction) -> Boxes:
        """One row as boxes, in pixels of the stored picture where its size is known."""
        return renamed(
            boxes_of(row, self.scores),
            {normalise(a, lower=True): normalise(b, lower=True) for a, b in self.aliases.items()},
        )

    def write(self, rows: Sequence[Prediction]) -> list[Path]:
        """The COCO results file, if one is asked for; boxes with labels that are no category have no place in it."""
        if self.out is None:
            return []
        ids = {
            normalise(name, lower=True): number for number, name in Annotations.read(self.data).labels.items()
        }
        found = []
        for row in rows:
            picture = self.boxes(row)
            for (x1, y1, x2, y2), label, score in zip(
                picture.boxes.tolist(), picture.labels, picture.scores.tolist(), strict=True
            ):
                if label in ids:
                    item = {"image_id": row.meta["image_id"], "category_id": ids[label]}
                    found.append({**item, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
        return [save(self.out, found)]


@SUITES.register("detection")
class Detection(CocoFile):
    """COCO-style detection: the mean of each picture's mAP, and the mAP of the whole set, by name.

    `subset`: pictures with one true box (`single`) or with more (`multi`), as V-Triune's Table 2 is read here. `asked`: the
    categories that the picture has (pictures with none are left out, and counted), or all of the file.
    """

    shown: ClassVar[tuple[str, ...]] = (
        "map_per_image_mean",
        "map50_per_image_mean",
        "map_dataset",
        "map50_dataset",
    )

    kind: Literal["detection"] = "detection"
    subset: Literal["all", "single", "multi"] = Field(
        "all", description="pictures by their number of true boxes"
    )
    asked: Literal["present", "all"] = Field(
        "present", description="categories in the question: the picture's, or the file's"
    )

    def load(self, frame: Frame) -> Loaded:
        library()  # it scores the answers: to be missed now, not after hours
        file = Annotations.read(self.data)
        left_out: Counter[str] = Counter()

        def rows() -> Iterator[Row]:
            for number, image in enumerate(file.images):
                row = self.row(image, number)
                true = [one for one in file.of(row) if not one.get("iscrowd")]
                if not {"all": True, "single": len(true) == 1, "multi": len(true) > 1}[self.subset]:
                    left_out[f"not {self.subset}"] += 1
                elif self.asked == "present" and not true:
                    left_out["no true box, so nothing to ask for"] += 1
                else:
                    yield row

        def make(row: Row) -> Iterator[Sample]:
            truth = file.of(row)
            present = {one["category_id"] for one in truth if not one.get("iscrowd")}
            names = [name for key, name in file.labels.items() if self.asked == "all" or key in present]
            yield self.question(row, frame, names, file)

        loaded = self.collect(rows(), make)
        return Loaded(loaded.samples, loaded.left_out + left_out)

    def numbers(self, rows: Sequence[Prediction]) -> dict[str, Number]:
        pictures = [self.boxes(row) for row in rows if row.judged]
        # Unreadable is not "nothing there": it earns nothing even where nothing is.
        readable = np.array([row.prediction is not None for row in rows if row.judged], float)
        return detection_numbers(pictures, readable)


def boxes_of(row: Prediction, scores: Scores = "equal") -> Boxes:
    """A row whose main check is `detection`, as boxes; truth and predictions in pixels of the stored picture."""
    items: Any = row.prediction or []
    params: Any = max(row.checks, key=lambda check: check.weight).params
    labelled, image = params.get("labels", True), params.get("image") or 0

    def pairs(held: Any) -> list[tuple[list[float], str]]:
        held = held or {}
        boxes = held.get("boxes") or []
        if row.frame != "pixels_original":
            boxes = convert(as_boxes(boxes), row.frame, "pixels_original", row.outcome, image).tolist()
        labels = held.get("labels") or [""] * len(boxes)
        return [(b, normalise(x, lower=True) if labelled else "") for b, x in zip(boxes, labels, strict=True)]

    nothing = ([0.0, 0.0, 0.0, 0.0], UNREADABLE)
    found = [nothing if one is None else (one["bbox_2d"], one["label"]) for one in items]
    areas: Any = row.meta.get("areas")
    return Boxes.of(found, pairs(row.truth), scores=scores, areas=areas, crowd=pairs(row.meta.get("crowd")))


def detection_numbers(pictures: Sequence[Boxes], readable: np.ndarray) -> dict[str, Number]:
    """Every detection figure. `readable` f64[n]: 0 for pictures whose answer could not be read at all."""
    if not pictures:
        return {}
    n = len(pictures)
    # With truth an unreadable answer scores 0 by itself; without, it would pass for "nothing there".
    each = np.array([image_ap(p) for p in pictures]) * readable[:, None]
    strict = np.array([image_ap(p, strict=True) for p in pictures]) * readable[:, None]
    whole, dataset = dataset_numbers(pictures)
    return {
        "map_per_image_mean": mean(each.mean(axis=1)),
        "map50_per_image_mean": mean(each[:, 0]),
        "map75_per_image_mean": mean(each[:, 5]),
        "map_per_image_mean_strict": mean(strict.mean(axis=1)),
        **{f"{name}_dataset": value for name, value in dataset.items()},
        "map_dataset_strict": Number(value=whole.strict, n=n),
        "images_without_truth": count(sum(not p.truth_labels for p in pictures), n),
        "boxes_predicted": count(sum(len(p.boxes) for p in pictures), n),
        "boxes_without_known_label": count(sum(whole.without_truth.values()), n),
    }


def dataset_numbers(pictures: Sequence[Boxes]) -> tuple[DatasetMap, dict[str, Number]]:
    """COCO's figures over the set, by the library; those over all sizes with intervals over resampled pictures."""
    whole, n = dataset_map(pictures), len(pictures)
    drawn = draws(n, Resampler(pictures).ap)
    at = {"map": slice(None), "map50": slice(0, 1), "map75": slice(5, 6)}
    return whole, {
        name: resampled(value, n, (None if ap is None else float(ap[at[name]].mean()) for ap in drawn))
        if name in at
        else Number(value=value, n=n)
        for name, value in whole.figures.items()
    }
