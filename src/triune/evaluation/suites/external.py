"""Benchmarks that bring their own scorer: their questions are asked, and the answers are written as that scorer reads them.

What each file of this package knows of a benchmark (fields of its questions, keys that its scorer accesses) is cited by
repository, file and commit. Nothing is scored here: `commands` says what to run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from triune.core.sample import Check
from triune.evaluation.number import Number, count
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import Suite
from triune.verify.extract import after_think, read_answer, without_end
from triune.verify.verifier import Unparsed

ELSEWHERE = (Check(verifier="elsewhere"),)
"""The check of samples that no verifier here judges; a sample must have one."""


class External(Suite):
    """Base of the exporters."""

    scoring: ClassVar[tuple[str, ...]] = ("answer",)
    shown: ClassVar[tuple[str, ...]] = ("without_answer", "unsupported")

    out: Path = Field(description="the file (for mmmu: the folder) that the official scorer reads")

    @abstractmethod
    def write(self, rows: Sequence[Prediction]) -> list[Path]:
        """Writes what the official scorer reads."""

    @abstractmethod
    def commands(self) -> list[str]:
        """The shell commands that score what was written, to be run in a checkout of the benchmark's repository."""

    def numbers(self, rows: Sequence[Prediction]) -> dict[str, Number]:
        """`without_answer`: nothing where the answer was asked for, so that the response as it is goes to the scorer.
        `unsupported`: questions that could not be shown (video), sent as unanswered."""
        asked = [row for row in rows if "unsupported" not in row.meta]
        return {
            "without_answer": count(sum(self.found(row) is None for row in asked), len(rows)),
            "unsupported": count(len(rows) - len(asked), len(rows)),
        }

    def found(self, row: Prediction) -> str | None:
        """The answer where it was asked for; None if there is none."""
        try:
            return read_answer(row.response, self.answer)
        except Unparsed:
            return None

    def final(self, row: Prediction) -> str:
        """What the scorer is given: the answer, or else the response without its thoughts, or else all of it."""
        found = self.found(row)
        if found is not None:
            return found
        text = without_end(row.response)
        try:
            return after_think(text).strip()
        except Unparsed:
            return text.strip()
