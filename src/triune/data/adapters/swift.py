"""ms-swift rows: `messages` with <image>, `images`, and `objects` {ref, bbox} behind <ref-object> and <bbox>."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, JsonValue

from triune.core.sample import Check, Frame, Response, Sample
from triune.data.adapters import ADAPTERS, Columns
from triune.data.chat import Chat
from triune.data.rows import Row
from triune.verify.items import valid_box

_PLACE = re.compile(r"<ref-object>|<bbox>")
FRAMES: Mapping[str, Frame] = {"real": "pixels_original", "norm1": "unit"}


@ADAPTERS.register("swift")
class Swift(Chat):
    """Names and boxes of `objects` are written into the conversation, in order. Boxes that the assistant gives are the
    truth, `{"boxes", "labels"}`, judged by `box_checks`; rows without such boxes have theirs in the column `truth`. With
    `rejected_response` the assistant's answer is the chosen side of a pair."""

    examples = (
        {
            "messages": [
                {"role": "user", "content": "<image>How many?"},
                {"role": "assistant", "content": "3"},
            ],
            "images": ["picture.png"],
            "solution": 3,
        },
        {
            "messages": [
                {"role": "user", "content": "<image>Find the <ref-object>."},
                {"role": "assistant", "content": "<bbox>"},
            ],
            "images": [{"bytes": None, "path": "picture.png"}],
            "objects": {"ref": ["dog"], "bbox": [[3.5, 1.0, 20.0, 12.0]], "bbox_type": "real"},
        },
    )

    kind: Literal["swift"] = "swift"
    box_checks: tuple[Check, ...] = Field(
        (Check(verifier="detection", weight=0.9), Check(verifier="format_json", weight=0.1)),
        description="verifiers of rows whose answer is boxes",
    )

    def wants(self) -> tuple[Columns, ...]:
        truth = (self.truth,) if self.truth else ()
        return ("messages", "objects"), ("messages", *truth)

    def sample(self, row: Row) -> Sample:
        images = row.images("images")
        if row.values.get("objects") is None:
            return self._paired(row, self.conversation(row, "messages", images))
        objects = row.nested("objects")
        names, boxes = objects.get("ref", list, []), objects.get("bbox", list, [])
        frame = FRAMES.get(objects.get("bbox_type", str, "real"))
        if frame is None:
            raise row.error("unsupported", f"objects.bbox_type must be one of {', '.join(FRAMES)}")
        if any(objects.get("image_id", list, [])):
            raise row.error("unsupported", "objects.image_id: boxes are read on the first picture only")
        for i, box in enumerate(boxes):
            if valid_box(box) is None:
                raise row.error(
                    "invalid", f"objects.bbox[{i}] is {box!r}, not x1, y1, x2, y2 with x1 < x2 and y1 < y2"
                )
        if not all(isinstance(name, str) for name in names):
            raise row.error("wrong_type", f"objects.ref must be names, got {names!r}")
        written = _Written(row, names, boxes)
        row = row.with_values(messages=[written.turn(turn) for turn in row.need("messages", list)])
        written.finish()
        if not written.answered:
            return self._paired(row, self.conversation(row, "messages", images, frame=frame))
        fields = {"checks": self.box_checks, "frame": frame, "task": "grounding"}
        return self._paired(row, self.conversation(row, "messages", images, truth=written.truth(), **fields))

    def _paired(self, row: Row, sample: Sample) -> Sample:
        if row.values.get("rejected_response") is None:
            return sample
        if sample.expert is None:
            raise row.error("missing_field", "rejected_response needs an assistant turn that was chosen")
        pair = (
            Response(text=sample.expert, label="chosen"),
            Response(text=row.need("rejected_response", str), label="rejected"),
        )
        return sample.model_copy(update={"expert": None, "responses": pair})


class _Written:
    """Names and boxes on their way into a conversation, each used once and in order."""

    def __init__(self, row: Row, names: Sequence[str], boxes: Sequence[Sequence[float]]) -> None:
        self.row, self.names, self.boxes = row, names, boxes
        self.named = self.boxed = 0
        self.answered: list[int] = []

    def turn(self, turn: Any) -> Any:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            return turn
        role = turn.get("role")
        return {
            "role": role,
            "content": _PLACE.sub(lambda m: self._one(m[0], role == "assistant"), turn["content"]),
        }

    def _one(self, place: str, answer: bool) -> str:
        if place == "<ref-object>":
            self.named += 1
            return self.names[self.named - 1] if self.named <= len(self.names) else ""
        self.boxed += 1
        if self.boxed > len(self.boxes):
            return ""
        if answer:
            self.answered.append(self.boxed - 1)
        return json.dumps(list(self.boxes[self.boxed - 1]))

    def finish(self) -> None:
        """Raises DataError unless there were as many places as names and boxes."""
        for place, used, given in (("ref-object", self.named, self.names), ("bbox", self.boxed, self.boxes)):
            if used != len(given):
                raise self.row.error(
                    "placeholders",
                    f"the messages have {used} <{place}> but objects has {len(given)}; each is used once",
                )

    def truth(self) -> JsonValue:
        """The boxes that the assistant gives; name i belongs to box i, a single name to all."""
        if len(self.names) not in (1, len(self.boxes)):
            raise self.row.error(
                "invalid",
                f"objects has {len(self.names)} names for {len(self.boxes)} boxes: which is whose is not said",
            )
        labels = self.names if len(self.names) == len(self.boxes) else [self.names[0]] * len(self.boxes)
        return {
            "boxes": [list(self.boxes[i]) for i in self.answered],
            "labels": [labels[i] for i in self.answered],
        }
