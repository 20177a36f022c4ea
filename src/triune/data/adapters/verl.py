"""verl rows: data_source, prompt with <image> placeholders, images, ability, reward_model{style, ground_truth}, extra_info.

verl routes rewards by `data_source` in code; here the recipe says once, in `checks`, which verifiers a file's
rows are scored by, and the rows carry them from there on. Also reads EasyR1's rows (problem, answer, images).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triune.core.sample import Check, Sample
from triune.data.adapters import ADAPTERS, Adapter
from triune.data.rows import Row


@ADAPTERS.register("verl")
class Verl(Adapter):
    """The truth is `reward_model.ground_truth`, or EasyR1's `answer`."""

    examples = (
        {
            "data_source": "geometry3k",
            "prompt": [{"role": "user", "content": "<image>Find x."}],
            "images": ["picture.png"],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "48"},
            "extra_info": {"split": "train", "index": 0},
        },
        {
            "problem": "<image>What is drawn?",
            "answer": "a square",
            "images": [{"bytes": None, "path": "picture.png"}],
        },
    )

    kind: Literal["verl"] = "verl"
    checks: tuple[Check, ...] = Field(
        (Check(verifier="math"),), description="verifiers of every row of the files"
    )

    def sample(self, row: Row) -> Sample:
        images = row.images("images")
        if row.get("videos", list, []):
            raise row.error("unsupported", "the row has videos; only images are supported")
        extra = row.get("extra_info", dict, {})
        source = row.get("data_source", str, row.source)
        if "problem" in row.values:  # EasyR1
            row = row.with_values(prompt=[{"role": "user", "content": row.need("problem", str)}])
            truth = row.need("answer", object)
        else:
            truth = row.nested("reward_model").need("ground_truth", object)
        return row.sample(
            id=str(extra.get("id") or row.id),
            source=source,
            task=row.get("ability", str, source),
            messages=row.messages("prompt", images),
            media=images,
            truth=truth,
            checks=self.checks,
            meta={"split": extra["split"]} if extra.get("split") else {},
        )
