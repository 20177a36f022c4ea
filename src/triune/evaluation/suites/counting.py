"""Counting questions with a whole number as their truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from triune.core.sample import Check, Frame, Sample
from triune.data.rows import Row
from triune.evaluation.number import Number, mean, share
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import PLACES, SUITES, Loaded, Suite, correct, worded


@SUITES.register("counting")
class Counting(Suite):
    """Rows with `image`, `question` and `answer` (CountBench and the like)."""

    shown: ClassVar[tuple[str, ...]] = ("accuracy", "within_1", "mae")

    kind: Literal["counting"] = "counting"
    prompt: str = Field(
        "{question}\nWrite the number in digits, {place}.",
        description="wording; {question} and {place} are filled in",
    )
    image: str = Field("image", description="column with the picture")
    question: str = Field("question", description="column with the question")
    truth: str = Field("answer", description="column with the true number")

    def load(self, frame: Frame) -> Loaded:
        def make(row: Row) -> Iterator[Sample]:
            text = worded(self.prompt, question=row.need(self.question, str), place=PLACES[self.answer])
            check = Check(verifier="count", params={"answer": self.answer})
            id = str(row.get("id", object, row.id))
            truth = row.need(self.truth, object)
            yield self.ask(row, text, id=id, truth=truth, checks=[check], image=self.image)

        return self.collect(self.table(), make)

    def numbers(self, rows: Sequence[Prediction]) -> dict[str, Number]:
        """`accuracy` and `within_1` are shares of all judged samples, an unreadable answer being wrong; `mae`, the mean
        absolute error, is over the answers that could be read."""
        judged = [row for row in rows if row.judged]
        return {
            "accuracy": correct(rows),
            "within_1": share((error := _error(row)) is not None and error <= 1 for row in judged),
            "mae": mean(error for row in judged if (error := _error(row)) is not None),
        }


def _error(row: Prediction) -> float | None:
    if row.prediction is None:
        return None
    return abs(float(str(row.prediction)) - float(str(row.truth).replace(",", "")))
