"""A local folder of pictures and a CSV or JSONL about them; by default boxes: image,x1,y1,x2,y2,label."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triune.data.adapters import ADAPTERS
from triune.data.columns import Answers, NamedColumns


@ADAPTERS.register("folder")
class Folder(NamedColumns):
    """Paths of pictures start at the table's folder, or at `folder`. Cells of a CSV are read as what `answers` needs."""

    examples = (
        {"image": "picture.png", "x1": "3", "y1": "2.5", "x2": "20", "y2": "12", "label": "cat"},
        {"image": "picture.png", "x1": 3, "y1": 2, "x2": 20, "y2": 12, "label": "cat"},
    )

    kind: Literal["folder"] = "folder"
    answers: Answers = Field("boxes", description="what an answer is: boxes, count, choice, math or text")
