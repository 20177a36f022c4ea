"""What adapters of chat formats share: a conversation, its pictures, and a truth that the recipe's checks judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, JsonValue

from triune.core.sample import Check, Media, Sample
from triune.data.adapters import Adapter
from triune.data.rows import Row


class Chat(Adapter):
    """A final assistant turn is the demonstration (`expert`), not part of the prompt.

    Where the truth is no column, it is the demonstration, else the first answer that was chosen.
    """

    checks: tuple[Check, ...] = Field(
        (Check(verifier="math"),), description="verifiers of every row of the files"
    )
    truth: str = Field(
        "solution",
        description="column with the reference; empty: the demonstration, or the chosen answer, is the truth",
    )
    task: str = Field("chat", description="task of every row, as such rows name none")

    def conversation(
        self, row: Row, key: str, images: Sequence[Media], truth: JsonValue = None, **fields: Any
    ) -> Sample:
        """The sample of a conversation under `key`; `truth` where the row says it elsewhere than in a column."""
        messages = row.messages(key, images)
        expert, responses = fields.pop("expert", None), fields.pop("responses", ())
        if messages[-1].role == "assistant" and expert is None and not responses:
            *prompt, last = messages
            messages, expert = tuple(prompt), last.text
        shown = (expert, *(answer.text for answer in responses if answer.label == "chosen"))
        known = next((text for text in shown if text is not None), None)
        if truth is None and self.truth:
            truth = row.need(self.truth, object)  # type: ignore[assignment]
        elif truth is None and known is None and not responses:
            raise row.error(
                "missing_field", "no column is named as `truth` and the row ends without an assistant turn"
            )
        given = {
            "id": str(row.get("id", object, row.id)),
            "source": row.get("source", str, row.source),
            "task": self.task,
            "checks": self.checks,
        }
        return row.sample(
            **(given | fields),
            messages=messages,
            media=images,
            truth=known if truth is None else truth,
            expert=expert,
            responses=responses,
        )
