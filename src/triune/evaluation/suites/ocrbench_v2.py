"""OCRBench v2 (Fu et al. 2025): `OCRBench_v2.json`, answers in its field `predict` for `eval_scripts/eval.py`.

Format: Yuliang-Liu/MultimodalOCR at 794c36d, `OCRBench_v2/README.md` and `OCRBench_v2/eval_scripts/eval.py` (reads `type`,
`question`, `answers`, `predict`, and by type `eval`, `bbox`, `content`: every field of a question is kept).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from triune.core.sample import Frame, Sample
from triune.data.rows import Row
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import PLACES, SUITES, Loaded, save, worded
from triune.evaluation.suites.external import ELSEWHERE, External


@SUITES.register("ocrbench_v2")
class OCRBenchV2(External):
    """A list of questions with `id`, `type`, `question`, `answers`, `image_path`; pictures are relative to `images`, the
    folder that holds `EN_part` and `CN_part`."""

    kind: Literal["ocrbench_v2"] = "ocrbench_v2"
    prompt: str = Field(
        "{question}\nWrite the answer {place}.", description="wording; {question} and {place} are filled in"
    )

    def load(self, frame: Frame) -> Loaded:
        def make(row: Row) -> Iterator[Sample]:
            for key in ("type", "answers"):
                row.need(key, object)
            yield self.ask(
                row,
                worded(self.prompt, question=row.need("question", str), place=PLACES[self.answer]),
                id=str(row.need("id", object)),
                truth=None,
                checks=ELSEWHERE,
                image="image_path",
                meta={"question": dict(row.values)},
            )

        return self.collect(self.table(), make)

    def write(self, rows: Sequence[Prediction]) -> list[Path]:
        """The questions as they are, each with its `predict`."""
        held: list[dict[str, Any]] = []
        for row in rows:
            question: Any = row.meta["question"]
            held.append({**question, "predict": self.final(row)})
        return [save(self.out, held)]

    def commands(self) -> list[str]:
        out = self.out.resolve()
        scored = out.with_name(f"{out.stem}_scored.json")
        return [
            "cd OCRBench_v2",
            f"python ./eval_scripts/eval.py --input_path {out} --output_path {scored}",
            f"python ./eval_scripts/get_score.py --json_file {scored}",
        ]
