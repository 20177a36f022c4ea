"""Recorded answers in foreign rows: completions as strings or as an assistant's turn, and lists of answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from triune.core.sample import Response, Text
from triune.data.rows import Row


def completion(row: Row, key: str, start: int = 0) -> str:
    """The answer under a key: a string, or a conversation of which one assistant turn is left after `start` turns.

    Raises DataError for more turns (a dialogue is not an answer) and for an answer that shows pictures.
    """
    if isinstance(row.values.get(key), str):
        return row.need(key, str)
    turns = row.need(key, list)[start:]
    if len(turns) != 1 or not isinstance(turns[0], Mapping):
        raise row.error(
            "unsupported",
            f"{row.path + key!r} must be a text or one assistant turn, got {len(turns)} turns; "
            "answers over several turns are not read",
        )
    (message,) = row.with_values(**{key: turns}).messages(key, ())
    if message.role != "assistant" or not all(isinstance(block, Text) for block in message.content):
        raise row.error("invalid", f"{row.path + key!r} must be an assistant turn, got role {message.role!r}")
    return message.text


def recorded(row: Row, key: str) -> tuple[Response, ...]:
    """The answers under a key: a text, a struct of {text, label, score, branch}, or a list of these.

    Raises DataError naming the answer that is neither.
    """
    value = row.need(key, object)
    found = []
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        # Arrow fills what a struct lacks with nulls.
        fields: Any = {"text": one} if isinstance(one, str) else one
        if isinstance(one, Mapping):
            fields = {name: inner for name, inner in one.items() if inner is not None}
        try:
            found.append(Response.model_validate(fields))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, (f"{row.path}{key}[{number}]", *first["loc"])))
            raise row.error("wrong_type", f"{place}: {first['msg']}; an answer is a text or "
                            "{text, label, score, branch}") from error  # fmt: skip
    return tuple(found)


SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
"""Columns with what the two answers are worth, as data sets name them."""


def sides(row: Row, start: int = 0) -> tuple[Response, ...]:
    """The pair under `chosen` and `rejected`, each after `start` turns that are the prompt.

    Two columns of scores, or a `margin` by which the chosen answer is better, become the answers' scores. Raises DataError where
    the two are one answer, or where the scores say the opposite of the names: such a row teaches nothing, or the wrong thing.
    """
    chosen, rejected = completion(row, "chosen", start), completion(row, "rejected", start)
    if chosen.strip() == rejected.strip():
        raise row.error(
            "invalid", "`chosen` and `rejected` are the same answer: there is no preference in it"
        )
    better = worse = None
    named = next((names for names in SCORES if all(row.values.get(name) is not None for name in names)), None)
    if named is not None:
        better, worse = (row.need(name, float) for name in named)
    elif row.values.get("margin") is not None:
        better, worse = row.need("margin", float), 0.0
    if better is not None and worse is not None and not (math.isfinite(better - worse) and better >= worse):
        raise row.error(
            "invalid",
            f"the chosen answer is worth {better} and the rejected one {worse}: which is preferred?",
        )
    return (
        Response(text=chosen, label="chosen", score=better),
        Response(text=rejected, label="rejected", score=worse),
    )


def shared(row: Row) -> int:
    """How many turns `chosen` and `rejected` begin with alike: the prompt of a preference row that has no other."""
    chosen, rejected = row.need("chosen", list), row.need("rejected", list)
    count = 0
    for a, b in zip(chosen, rejected, strict=False):
        if a != b:
            break
        count += 1
    if not 0 < count < min(len(chosen), len(rejected)):
        raise row.error(
            "missing_field",
            "`chosen` and `rejected` share no prompt to begin with, or nothing but one; give a `prompt` column",
        )
    return count


__all__ = ["completion", "recorded", "shared", "sides"]
