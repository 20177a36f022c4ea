"""MathVista (Lu et al. 2024): `data/testmini.json` of the repository, answers for its `evaluation/` scripts.

Format: lupantech/MathVista at 53d5258, `data/testmini.json` (pid to question), `data/query.json` (pid to wording),
`evaluation/extract_answer.py` (reads `response`, `query`, `question_type`, `answer_type`, `choices`, `pid`; leaves a row with an
`extraction` alone), `evaluation/calculate_score.py` (reads `choices`, `question_type`, `answer_type`, `precision`,
`extraction`, `answer`, `metadata`).
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from triune.core.errors import DataError
from triune.core.sample import Frame, Sample
from triune.data.rows import Row
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import PLACES, SUITES, Loaded, save, worded
from triune.evaluation.suites.external import ELSEWHERE, External

FORM = {
    "integer": "Answer with an integer",
    "float": "Answer with a number with {precision} decimal places",
    "list": "Answer with a Python list, such as [1, 2, 3]",
    "text": "Answer with the letter of the right option",
}


@SUITES.register("mathvista")
class MathVista(External):
    """`data` is `testmini.json` (or `test.json`); pictures are named relative to `images`, the folder that holds `images/`."""

    kind: Literal["mathvista"] = "mathvista"
    prompt: str = Field(
        "{question}\n{form}, {place}.", description="wording; {question}, {form} and {place} are filled in"
    )
    queries: Path | None = Field(
        None, description="the repository's data/query.json: its wording instead of {question} and {form}"
    )

    def load(self, frame: Frame) -> Loaded:
        queries = _mapping(self.queries) if self.queries else None
        problems = _mapping(Path(self.data))

        def make(row: Row) -> Iterator[Sample]:
            pid = row.need("pid", str)
            if queries is not None and not isinstance(queries.get(pid), str):
                raise row.error("missing_field", f"{self.queries} has no wording for pid {pid!r}")
            query = queries[pid] if queries is not None else _question(row, self.prompt)
            text = query if queries is None else f"{query}\nWrite the final answer {{place}}."
            text = worded(text, place=PLACES[self.answer])
            held = {key: value for key, value in row.values.items() if key != "decoded_image"}
            yield self.ask(
                row,
                text,
                id=pid,
                truth=row.values.get("answer"),
                checks=ELSEWHERE,
                meta={"problem": held, "query": text},
            )

        rows = (self.row({"pid": pid, **held}, n) for n, (pid, held) in enumerate(problems.items()))
        return self.collect(rows, make)

    def write(self, rows: Sequence[Prediction]) -> list[Path]:
        """pid to the question with `query`, `response`, and `extraction` where the answer was found."""
        held: dict[str, Any] = {}
        for row in rows:
            problem: Any = row.meta["problem"]
            # Without an answer the extraction is empty, which the official extractor fills in and the scorer takes as wrong.
            held[row.id] = {
                **problem,
                "query": row.meta["query"],
                "response": row.response,
                "extraction": self.found(row) or "",
            }
        return [save(self.out, held)]

    def commands(self) -> list[str]:
        out = self.out.resolve()
        return [
            "# only for rows without an answer; asks GPT through Azure:",
            f"PYTHONPATH=. python evaluation/extract_answer.py --results_file_path {out}",
            f"PYTHONPATH=. python evaluation/calculate_score.py --output_dir {out.parent} --output_file {out.name} "
            f"--score_file {out.stem}_scores.json",
        ]


def _question(row: Row, prompt: str) -> str:
    choices = row.get("choices", list, [])
    lines = [row.need("question", str)]
    if row.values.get("unit"):
        lines[0] += f" (Unit: {row.values['unit']})"
    lines += [f"({a}) {b}" for a, b in zip(string.ascii_uppercase, choices, strict=False)]
    kind = row.need("answer_type", str)
    if kind not in FORM:
        raise row.error("invalid", f"answer_type {kind!r} is none of {', '.join(FORM)}")
    # The file has 1.0 where a Parquet reader met nulls in the column.
    form = worded(FORM[kind], precision=str(int(row.get("precision", float, 1.0))))
    return worded(prompt, question="\n".join(lines), form=form)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(held, dict) or not held:
        raise DataError(
            f"{path}: a mapping from pid to question is needed; it is data/testmini.json of the repository"
        )
    return held
