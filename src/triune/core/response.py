"""A recorded answer to a sample: what a demonstration, a preference pair or a replayed reasoning is made from."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from triune.core.base import Frozen


class Response(Frozen):
    """One answer as text, without the token that ends a turn.

    `label` says which side of a preference it is on, `score` what it earned where it was recorded. Answers of one
    `branch` were made from the same intermediate text (in SOPHIA: one description of the picture). `emphasis` holds
    (start, end, weight) of characters that count by another weight than 1.
    """

    text: str
    label: Literal["chosen", "rejected"] | None = None
    score: float | None = Field(None, allow_inf_nan=False)
    branch: str = ""
    emphasis: tuple[tuple[int, int, float], ...] = ()

    @field_validator("emphasis")
    @classmethod
    def _inside(
        cls, spans: tuple[tuple[int, int, float], ...], info: ValidationInfo
    ) -> tuple[tuple[int, int, float], ...]:
        size, last = len(info.data.get("text", "")), 0
        for start, end, weight in spans:
            if not last <= start < end <= size or not 0 <= weight < math.inf:
                raise ValueError(
                    f"({start}, {end}, {weight}) is no span of a text of {size} characters with a weight: spans must rise, not "
                    "overlap and lie inside"
                )
            last = end
        return spans
