"""A recorded answer to a sample: what a demonstration, a preference pair or a replayed reasoning is made from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triune.core.base import Frozen


class Response(Frozen):
    """One answer as text, without the token that ends a turn.

    `label` says which side of a preference it is on, `score` what it earned where it was recorded. Answers of one
    `branch` were made from the same intermediate text (in SOPHIA: one description of the picture).
    """

    text: str
    label: Literal["chosen", "rejected"] | None = None
    score: float | None = Field(None, allow_inf_nan=False)
    branch: str = ""
