"""TRL's conversational rows: `prompt` or `messages`, `images` or `image`, a column with the reference, and what was answered.

`completion` is a demonstration, or with `label` an answer that was found good or bad (unpaired preference); `chosen` and
`rejected` are a pair, with or without the prompt in front of both, and with or without `margin` or a score of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from triune.core.sample import Response, Sample
from triune.data.adapters import ADAPTERS, Columns
from triune.data.chat import Chat
from triune.data.responses import completion, shared, sides
from triune.data.rows import Row


@ADAPTERS.register("trl")
class TRL(Chat):
    """Content is typed blocks or strings. Where no turn says where the pictures go, they come first in the first user
    turn, as TRL puts them."""

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
            "prompt": [{"role": "user", "content": "How many?"}],
            "image": {"bytes": None, "path": "picture.png"},
            "solution": "3",
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Where?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "here"}]},
            ],
            "images": ["picture.png"],
            "solution": "here",
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "picture.png"}}]},
            ],
            "solution": "3",
        },
        {
            "prompt": [{"role": "user", "content": "How many?"}],
            "completion": [{"role": "assistant", "content": "3"}],
            "images": ["picture.png"],
            "solution": "3",
        },
        {
            "prompt": [{"role": "user", "content": "How many?"}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "3"}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "4"}]}],
            "images": ["picture.png"],
            "solution": "3",
        },
        {
            "chosen": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "3"}],
            "rejected": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "4"}],
            "images": ["picture.png"],
            "solution": "3",
        },
    )  # fmt: skip

    kind: Literal["trl"] = "trl"

    def wants(self) -> tuple[Columns, ...]:
        truth = (self.truth,) if self.truth else ()
        return ("prompt", *truth), ("messages", *truth), ("chosen", "rejected", *truth)

    def sample(self, row: Row) -> Sample:
        given = {name for name, value in row.values.items() if value is not None}
        said: dict[str, Any] = {}
        if {"chosen", "rejected"} <= given:
            start = 0
            if "prompt" not in given:
                start = shared(row)
                row = row.with_values(prompt=row.need("chosen", list)[:start])
            said["responses"] = sides(row, start)
        elif "completion" in given and "label" in given:
            label: Literal["chosen", "rejected"] = "chosen" if row.need("label", bool) else "rejected"
            said["responses"] = (Response(text=completion(row, "completion"), label=label),)
        elif "completion" in given:
            said["expert"] = completion(row, "completion")
        key = "prompt" if row.values.get("prompt") is not None else "messages"
        if isinstance(row.values.get(key), str):
            row = row.with_values(**{key: [{"role": "user", "content": row.need(key, str)}]})
        column = next((name for name in ("images", "image") if row.values.get(name) is not None), None)
        turns = row.need(key, list)
        if column is None:
            row, column = row.with_values(images=_inline(turns)), "images"
        images = row.images(column)
        if images and not any(_shows(turn) for turn in turns):
            row = row.with_values(**{key: _first(turns, len(images))})
        return self.conversation(row, key, images, **said)


def _inline(turns: list[Any]) -> list[Any]:
    """Pictures that sit in the conversation's blocks instead of a column of their own."""
    contents = [turn.get("content") for turn in turns if isinstance(turn, Mapping)]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    shown = [b for b in blocks if isinstance(b, Mapping) and b.get("type") in ("image", "image_url")]
    return [block.get("image") or block.get("image_url") for block in shown]


def _shows(turn: Any) -> bool:
    content = turn.get("content") if isinstance(turn, Mapping) else None
    if isinstance(content, str):
        return "<image>" in content
    blocks = content if isinstance(content, list) else []
    return any(isinstance(b, Mapping) and b.get("type") in ("image", "image_url") for b in blocks)


def _first(turns: list[Any], count: int) -> list[Any]:
    """The turns with `count` pictures at the start of the first user turn; unchanged if there is none to put them in."""
    for number, turn in enumerate(turns):
        if isinstance(turn, Mapping) and turn.get("role") == "user":
            content = turn.get("content")
            places = [{"type": "image"}] * count
            words = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if not isinstance(words, list):
                break
            return [*turns[:number], {"role": "user", "content": [*places, *words]}, *turns[number + 1 :]]
    return turns
