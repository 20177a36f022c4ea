"""EasyR1 rows: `problem` with <image> placeholders, `answer`, `images`; options are named as in its `data` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triune.core.sample import Check, Sample
from triune.data.adapters import ADAPTERS, Adapter, Columns
from triune.data.rows import Row


@ADAPTERS.register("easyr1")
class EasyR1(Adapter):
    """EasyR1's `image_dir` is `folder` here, and its `dataset@split` a source's `path`."""

    examples = (
        {
            "problem": "<image>What is drawn?",
            "answer": "a square",
            "images": [{"bytes": None, "path": "picture.png"}],
        },
        {"problem": "<image>Find x.", "answer": "48", "images": ["picture.png"]},
    )

    kind: Literal["easyr1"] = "easyr1"
    prompt_key: str = Field("problem", description="column with the question")
    answer_key: str = Field("answer", description="column with the reference")
    image_key: str = Field("images", description="column with the pictures")
    format_prompt: str = Field(
        "{{ content }}", description="what is asked; {{ content }} stands for the question"
    )
    checks: tuple[Check, ...] = Field(
        (Check(verifier="math"),), description="verifiers of every row of the files"
    )
    task: str = Field("math", description="task of every row, as such rows name none")

    def wants(self) -> tuple[Columns, ...]:
        return ((self.prompt_key, self.answer_key),)

    def sample(self, row: Row) -> Sample:
        if row.get("videos", list, []):
            raise row.error("unsupported", "the row has videos; only images are supported")
        question = row.need(self.prompt_key, str)
        asked = self.format_prompt.replace("{{ content | trim }}", question.strip()).replace(
            "{{ content }}", question
        )
        row = row.with_values(prompt=[{"role": "user", "content": asked}])
        images = row.images(self.image_key)
        return row.sample(
            id=str(row.get("id", object, row.id)),
            source=row.source or row.file.stem,
            task=self.task,
            messages=row.messages("prompt", images),
            media=images,
            truth=row.need(self.answer_key, object),
            checks=self.checks,
        )
