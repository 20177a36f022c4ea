"""verl rows: data_source, prompt with <image> placeholders, images, ability, reward_model{style, ground_truth}, extra_info.

verl routes rewards by `data_source` in code; here the recipe says once, in `checks`, which verifiers a file's
rows are scored by, and the rows carry them from there on.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triune.core.sample import Check, Sample
from triune.data.adapters import ADAPTERS, Adapter, Columns
from triune.data.rows import Row


@ADAPTERS.register("verl")
class Verl(Adapter):
    """The truth is `reward_model.ground_truth`."""

    examples = (
        {
            "data_source": "geometry3k",
            "prompt": [{"role": "user", "content": "<image>Find x."}],
            "images": ["picture.png"],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "48"},
            "extra_info": {"split": "train", "index": 0, "answer": "48", "question": "Find x."},
        },
        {
            "data_source": "hiyouga/geometry3k",
            "prompt": [
                {"role": "system", "content": "Reason, then answer."},
                {"role": "user", "content": "<image>Find x."},
            ],
            "images": [{"bytes": None, "path": "picture.png"}],
            "ability": None,
            "reward_model": {"style": "rule", "ground_truth": "48"},
            "extra_info": None,
        },
    )

    kind: Literal["verl"] = "verl"
    checks: tuple[Check, ...] = Field(
        (Check(verifier="math"),), description="verifiers of every row of the files"
    )

    def wants(self) -> tuple[Columns, ...]:
        return (("prompt", "reward_model.ground_truth"),)

    def sample(self, row: Row) -> Sample:
        images = row.images("images")
        if row.get("videos", list, []):
            raise row.error("unsupported", "the row has videos; only images are supported")
        extra = row.get("extra_info", dict, {})
        source = row.get("data_source", str, row.source)
        return row.sample(
            id=str(extra.get("id") or row.id),
            source=source,
            task=row.get("ability", str, source),
            messages=row.messages("prompt", images),
            media=images,
            truth=row.nested("reward_model").need("ground_truth", object),
            checks=self.checks,
            meta={"split": extra["split"]} if extra.get("split") else {},
        )
