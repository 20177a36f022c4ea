"""ShareGPT and LLaVA rows: `conversations` of {from, value} with <image>, `image` or `images`."""

from __future__ import annotations

from typing import Literal

from triune.core.sample import Sample
from triune.data.adapters import ADAPTERS, Columns
from triune.data.chat import Chat
from triune.data.rows import Row


@ADAPTERS.register("sharegpt")
class ShareGPT(Chat):
    """Such data is made for imitation: unless a column holds a reference (`truth`), set `truth: ""`, and the last answer is
    the reference as well as the demonstration."""

    examples = (
        {
            "id": "000000033471",
            "conversations": [
                {"from": "human", "value": "How many?\n<image>"},
                {"from": "gpt", "value": "3"},
            ],
            "image": "picture.png",
            "solution": "3",
        },
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "<image>How many?"},
            ],
            "images": ["picture.png"],
            "solution": "3",
        },
    )

    kind: Literal["sharegpt"] = "sharegpt"

    def wants(self) -> tuple[Columns, ...]:
        return (("conversations", self.truth) if self.truth else ("conversations",),)

    def sample(self, row: Row) -> Sample:
        column = "images" if row.values.get("images") is not None else "image"
        return self.conversation(row, "conversations", row.images(column))
