"""Rows that carry their own checks, through any data adapter; and a recipe's held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from triune.core.errors import RecipeError
from triune.core.plugin import PlugIn
from triune.core.sample import Frame
from triune.data.adapters import Adapter
from triune.data.source import TableSource, stored
from triune.evaluation.detection import image_ap
from triune.evaluation.number import Number, mean
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import SUITES, Loaded, Suite, correct
from triune.evaluation.suites.detection import boxes_of

SHOWN = ("iou", "f1@50", "map")
"""Measurements of box verifiers that the table shows; the file of predictions has all."""


@SUITES.register("rows")
class Rows(Suite):
    """Any rows that an adapter reads: prompts as they are, judged by the checks that the rows route to."""

    shown: ClassVar[tuple[str, ...]] = ("accuracy", "correct", "map_per_image_mean", *SHOWN)

    kind: Literal["rows"] = "rows"
    adapter: Annotated[BaseModel, PlugIn("triune.data.adapters:ADAPTERS")] = Field(
        "triune", validate_default=True, description="row format of the file"
    )

    def load(self, frame: Frame) -> Loaded:
        adapter = self.adapter
        if not isinstance(adapter, Adapter):
            raise RecipeError(f"suite {self.source!r}: {type(adapter).__name__} is not a data adapter")
        if self.images is not None:
            adapter = adapter.model_copy(update={"folder": Path(self.images)})
        source = TableSource(
            self.data, adapter, name=self.source, split="heldout", on_bad_row=self.on_bad_row
        )
        # Rows name their own sources, as in training; a name given here holds for all of them.
        name = {"source": self.name} if self.name else {}
        return Loaded([sample.model_copy(update=name) for sample in stored(source)], source.skipped)

    def numbers(self, rows: Sequence[Prediction]) -> dict[str, Number]:
        """`accuracy` is the mean of the main check's value over the judged, `correct` the share that it calls correct."""
        judged = [row for row in rows if row.judged]
        mains = {max(row.checks, key=lambda check: check.weight) for row in judged}
        found = {"accuracy": mean(row.value or 0.0 for row in judged), "correct": correct(rows)}
        if {main.verifier for main in mains} == {"detection"}:
            each = [float(image_ap(boxes_of(row)).mean()) * (row.prediction is not None) for row in judged]
            found["map_per_image_mean"] = mean(each)
        names = {main.name for main in mains}
        for name in SHOWN if len(names) == 1 else ():
            keys = [f"{key}/{name}" for key in names]
            if all(key in row.metrics for row in judged for key in keys):
                found[name] = mean(row.metrics[key] for row in judged for key in keys)
        return found
