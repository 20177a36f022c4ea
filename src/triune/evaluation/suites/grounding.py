"""Grounding: one box for a phrase, from a table of pictures, phrases and boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from triune.core.sample import Check, Frame, Sample
from triune.data.rows import Row
from triune.evaluation.number import Number, mean, share
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import COORDINATES, PLACES, SUITES, Loaded, Suite, structured, worded

PROMPT = "Locate {phrase} in the image. Write its bounding box as [x1, y1, x2, y2], with coordinates {coordinates}, {place}."


@SUITES.register("grounding")
class Grounding(Suite):
    """Rows with `image`, `phrase` and `box` ([x1, y1, x2, y2], or [x, y, width, height] with `box_format: xywh`), in pixels
    of the stored picture; in a CSV the box is JSON text."""

    shown: ClassVar[tuple[str, ...]] = ("accuracy@50", "accuracy@75", "iou")

    kind: Literal["grounding"] = "grounding"
    prompt: str = Field(PROMPT, description="wording; {phrase}, {coordinates} and {place} are filled in")
    image: str = Field("image", description="column with the picture")
    phrase: str = Field("phrase", description="column with what to locate")
    box: str = Field("box", description="column with the true box")
    box_format: Literal["xyxy", "xywh"] = Field("xyxy", description="corners, or a corner and the size")

    def load(self, frame: Frame) -> Loaded:
        def make(row: Row) -> Iterator[Sample]:
            box = row.with_values(box=structured(row, self.box)).need("box", list)
            if len(box) != 4 or not all(type(x) in (int, float) for x in box):
                raise row.error("wrong_type", f"field {self.box!r} must be four numbers, got {box!r}"[:200])
            if self.box_format == "xywh":
                box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
            text = worded(
                self.prompt,
                phrase=row.need(self.phrase, str),
                coordinates=COORDINATES[frame],
                place=PLACES[self.answer],
            )
            check = Check(verifier="box_iou", params={"answer": self.answer, "iou": 0.0})
            id = str(row.get("id", object, row.id))
            yield self.ask(row, text, id=id, truth=box, checks=[check], image=self.image)

        return self.collect(self.table(), make)

    def numbers(self, rows: Sequence[Prediction]) -> dict[str, Number]:
        """`iou` is the mean over all judged samples, 0 where nothing could be read."""
        overlaps = [row.metrics["box_iou/iou"] for row in rows if row.judged]
        return {
            **{f"accuracy@{at}": share(one >= at / 100 for one in overlaps) for at in (50, 75, 95)},
            "iou": mean(overlaps),
        }
