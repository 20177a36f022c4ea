"""Chat rows: TRL (typed content, `images` or `image`), ms-swift (`messages`, `images`), ShareGPT (`conversations`, `image`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from triune.core.sample import Check, Sample
from triune.data.adapters import ADAPTERS, Adapter
from triune.data.rows import Row


@ADAPTERS.register("messages")
class Messages(Adapter):
    """Conversations. A final assistant turn is the demonstration (`expert`), not part of the prompt."""

    examples = (
        {
            "prompt": [
                {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]},
            ],
            "images": ["picture.png"],
            "solution": "3",
        },
        {
            "messages": [
                {"role": "user", "content": "<image>How many?"},
                {"role": "assistant", "content": "3"},
            ],
            "images": ["picture.png"],
            "solution": 3,
        },
        {
            "conversations": [
                {"from": "human", "value": "How many?\n<image>"},
                {"from": "gpt", "value": "3"},
            ],
            "image": "picture.png",
            "solution": "3",
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "picture.png"}}]},
            ],
            "solution": "3",
        },
    )

    kind: Literal["messages"] = "messages"
    checks: tuple[Check, ...] = Field(
        (Check(verifier="math"),), description="verifiers of every row of the files"
    )
    truth: str = Field(
        "solution", description="column with the reference; empty: the demonstration is the truth"
    )
    task: str = Field("chat", description="task of every row, as such rows name none")

    def sample(self, row: Row) -> Sample:
        conversation = next(
            (k for k in ("prompt", "messages", "conversations") if k in row.values), "messages"
        )
        if isinstance(row.values.get(conversation), str):  # TRL's plain prompt
            row = row.with_values(
                **{conversation: [{"role": "user", "content": row.need(conversation, str)}]}
            )
        if row.values.get("images") is None and row.values.get("image") is None:
            row = row.with_values(images=_inline(row.need(conversation, list)))
        images = row.images("images" if row.values.get("images") is not None else "image")
        messages = row.messages(conversation, images)
        expert = None
        if messages[-1].role == "assistant":
            *prompt, last = messages
            messages, expert = tuple(prompt), last.text
        if not self.truth and expert is None:
            raise row.error(
                "missing_field", "no column is named as `truth` and the row ends without an assistant turn"
            )
        return row.sample(
            id=str(row.get("id", object, row.id)),
            source=row.get("source", str, row.source),
            task=self.task,
            messages=messages,
            media=images,
            truth=row.need(self.truth, object) if self.truth else expert,
            checks=self.checks,
            expert=expert,
        )


def _inline(turns: list[Any]) -> list[Any]:
    """Pictures that sit in the conversation's blocks instead of a column of their own."""
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    shown = [
        block for block in blocks if isinstance(block, dict) and block.get("type") in ("image", "image_url")
    ]
    return [block.get("image") or block.get("image_url") for block in shown]
