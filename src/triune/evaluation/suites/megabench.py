"""MEGA-Bench (Chen et al. 2024): rows of the published data set, answers for the repository's `megabench/main.py`.

Format: TIGER-AI-Lab/MEGA-Bench at ee324ab, `megabench/task_processor.py` (`prepare_query_data`: fields of a row;
`append_query_response`: layout of the file), `megabench/evaluation_processor.py` (reads `task_name`, `global_description`,
`example_info`, and of each `query_response` `response`, `correct_answer`, `query_idx`, `query_text`, `images`),
`megabench/models/openai.py` (order of description, example and query).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from triune.core.sample import Frame, Message, Sample, Text
from triune.data.rows import Row
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import SUITES, Loaded, save
from triune.evaluation.suites.external import ELSEWHERE, External
from triune.verify.extract import AnswerSource

VIDEO = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
UNSUPPORTED = "The question shows a video, which this model cannot be shown; skipped."


@SUITES.register("megabench")
class MegaBench(External):
    """Rows of one subset (core, open, core_single_image, ...) as Parquet or JSONL, in the published order: `id`, `task_name`,
    `task_description`, `global_media`, `example_text`, `example_media`, `query_text`, `query_media`, `answer`.

    The questions say themselves how to answer ("Answer: ..."), so nothing is added, and the scorer is given the whole
    response without its thoughts. Questions with videos cannot be asked; they are written as unanswered, because the
    scorer divides by the number of responses that it finds.
    """

    scoring: ClassVar[tuple[str, ...]] = ("answer",)

    kind: Literal["megabench"] = "megabench"
    answer: AnswerSource = "text"

    def load(self, frame: Frame) -> Loaded:
        seen: Counter[str] = Counter()

        def make(row: Row) -> Iterator[Sample]:
            task = row.need("task_name", str)
            index = seen[task]
            seen[task] += 1
            parts = [
                (row.get("task_description", str, ""), _list(row, "global_media")),
                (row.get("example_text", str, ""), _list(row, "example_media")),
                (row.need("query_text", str), _list(row, "query_media")),
            ]
            media = [one for _, held in parts for one in held]
            video = any(one.lower().endswith(VIDEO) for one in media)
            text = "\n".join(part.strip() for part, _ in parts if part.strip())
            meta = {
                "task_name": task,
                "query_idx": index,
                "global_description": parts[0][0],
                "global_images": parts[0][1],
                "example_info": {"image_paths": parts[1][1], "example_text": parts[1][0]},
                "query_text": parts[2][0],
                "images": parts[2][1],
                "correct_answer": _literal(row, "answer"),
                **({"unsupported": "video"} if video else {}),
            }
            id = str(row.need("id", object))
            if video or not media:
                shown = (Message(role="user", content=(Text(text=UNSUPPORTED if video else text),)),)
                yield row.sample(
                    id=id, source=self.source, task=self.kind, messages=shown, checks=ELSEWHERE, meta=meta
                )
            else:
                held = row.with_values(images=media)
                yield self.ask(held, text, id=id, truth=None, checks=ELSEWHERE, image="images", meta=meta)

        # The scorer finds a question by its number within its task: none may be left out before it.
        return self.model_copy(update={"on_bad_row": "error"}).collect(self.table(), make)

    def write(self, rows: Sequence[Prediction]) -> list[Path]:
        """A list of tasks with their queries, as `main.py --evaluation_only` reads it."""
        tasks: dict[str, dict[str, Any]] = {}
        for row in rows:
            meta: Any = row.meta
            same = ("task_name", "global_description", "global_images", "example_info")
            task = tasks.setdefault(
                meta["task_name"], {**{key: meta[key] for key in same}, "query_response": []}
            )
            task["query_response"].append(
                {
                    "response": UNSUPPORTED if "unsupported" in meta else self.final(row),
                    "correct_answer": meta["correct_answer"],
                    "global_idx": row.id,
                    "query_idx": meta["query_idx"],
                    "images": meta["images"],
                    "query_text": meta["query_text"],
                }
            )
        return [save(self.out, list(tasks.values()))]

    def commands(self) -> list[str]:
        out = self.out.resolve()
        return [
            "cd megabench",
            f"python main.py --evaluation_only --output_file {out} --dataset_subset_name core",
            f"python tools/derive_breakdown_results.py --input_dir {out.parent}",
        ]


def _literal(row: Row, key: str) -> Any:
    value = row.need(key, object)
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise row.error("wrong_type", f"field {key!r} is not a Python literal: {value[:60]!r}") from error


def _list(row: Row, key: str) -> list[str]:
    held = [] if row.values.get(key) is None else _literal(row, key)
    if not isinstance(held, list | tuple) or not all(isinstance(one, str) for one in held):
        raise row.error("wrong_type", f"field {key!r} must be a list of paths, got {held!r}"[:200])
    return [str(one) for one in held]
