"""Reasonings that a text model made from the policy's own descriptions of a picture, and which of them are learnt (SOPHIA)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from triune.algo.collect.demonstrations import Placing
from triune.algo.options import COLLECTORS
from triune.core.errors import DataError
from triune.core.sample import Response, Sample


@COLLECTORS.register("semi_off_policy")
class SemiOffPolicy(Placing):
    """Places the shortest right answer of a sample among those made from good descriptions (SOPHIA, 2025).

    An answer y is right, R(y) = 1, if its recorded score reaches `correct`; a description c (a `branch` of the recorded
    answers) is worth the mean R(c) of its answers and is good if R(c) > `alpha`. What is placed has the paper's data-set
    reward 1, everything else has 0 and is left out; a sample without such an answer is counted as missing.
    """

    kind: Literal["semi_off_policy"] = "semi_off_policy"
    alpha: float = Field(
        gt=0,
        lt=1,
        description="share of right answers that a description's must exceed (the paper's is not public)",
    )
    correct: float = Field(default=1.0, description="score from which on an answer is right")

    def answers(self, sample: Sample, family: Any) -> list[str]:
        lost = next((answer for answer in sample.responses if answer.score is None), None)
        if lost is not None:
            raise DataError(f"sample {sample.id!r}: the recorded answer {lost.text[:40]!r} has no score")
        found = shortest_correct(
            sample.responses, self.alpha, correct=self.correct, length=lambda text: len(family.encode(text))
        )
        return [] if found is None else [found.text]


def shortest_correct(
    answers: Sequence[Response], alpha: float, *, correct: float = 1.0, length: Callable[[str], int] = len
) -> Response | None:
    """The shortest right answer of the good branches, the first of equals; None if there is none."""
    right = [answer.score is not None and answer.score >= correct for answer in answers]
    worth: dict[str, list[bool]] = defaultdict(list)
    for answer, good in zip(answers, right, strict=True):
        worth[answer.branch].append(good)
    kept = [
        answer
        for answer, good in zip(answers, right, strict=True)
        if good and sum(worth[answer.branch]) > alpha * len(worth[answer.branch])
    ]
    return min(kept, key=lambda answer: length(answer.text), default=None)
