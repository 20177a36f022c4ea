"""Multiple choice, each question once or with its options in every rotation (CircularEval, MMBench: Liu et al. 2023)."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from triune.core.sample import Check, Frame, Sample
from triune.data.rows import Row
from triune.evaluation.number import Number, mean, share
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import PLACES, SUITES, Loaded, Suite, correct, structured, worded
from triune.verify.choice import ChoiceParams, read_option
from triune.verify.extract import normalise
from triune.verify.verifier import Unparsed

PROMPT = "{question}\n{options}\nAnswer with the letter of the right option, {place}."


@SUITES.register("choice")
class Choice(Suite):
    """Rows with `image`, `question`, `options` (a list, in a CSV as JSON; or columns A, B, C, ...) and `answer`, the letter of
    the right option or its text."""

    shown: ClassVar[tuple[str, ...]] = ("accuracy", "circular_accuracy", "guessing")

    kind: Literal["choice"] = "choice"
    prompt: str = Field(PROMPT, description="wording; {question}, {options} and {place} are filled in")
    image: str = Field("image", description="column with the picture")
    question: str = Field("question", description="column with the question")
    options: str = Field(
        "options", description="column with the list of options; without it the columns A, B, C, ..."
    )
    truth: str = Field("answer", description="column with the right option")
    circular: bool = Field(
        False, description="ask with the options in every rotation; right only if right in all"
    )

    def load(self, frame: Frame) -> Loaded:
        def make(row: Row) -> Iterator[Sample]:
            options = self._options(row)
            try:
                letter = read_option(str(row.need(self.truth, object)), ChoiceParams(options=tuple(options)))
            except Unparsed as reason:
                raise row.error("invalid", f"field {self.truth!r}: {reason}") from None
            right = string.ascii_uppercase.index(letter)
            id = str(row.get("id", object, row.id))
            for turn in range(len(options) if self.circular else 1):
                shown = options[turn:] + options[:turn]
                text = worded(
                    self.prompt,
                    question=row.need(self.question, str),
                    options="\n".join(
                        f"{a}. {b}" for a, b in zip(string.ascii_uppercase, shown, strict=False)
                    ),
                    place=PLACES[self.answer],
                )
                yield self.ask(
                    row,
                    text,
                    id=f"{id}#{turn}" if self.circular else id,
                    truth=string.ascii_uppercase[(right - turn) % len(options)],
                    checks=[Check(verifier="choice", params={"answer": self.answer, "options": list(shown)})],
                    image=self.image,
                    meta={"question": id, "num_options": len(options)},
                )

        return self.collect(self.table(), make)

    def _options(self, row: Row) -> list[str]:
        listed = structured(row, self.options)
        if listed is None:
            listed = []
            for letter in string.ascii_uppercase:
                if row.values.get(letter) is None:
                    break
                listed.append(row.values[letter])
        if not isinstance(listed, list) or not 2 <= len(listed) <= 26:
            raise row.error(
                "missing_field",
                f"field {self.options!r} must list 2 to 26 options (or give columns A, B, ...)",
            )
        options = [str(one) for one in listed]
        if len({normalise(one, lower=True) for one in options}) != len(options):
            raise row.error("invalid", f"two options are the same: {options}"[:300])
        return options

    def numbers(self, rows: Sequence[Prediction]) -> dict[str, Number]:
        """`accuracy` is the share of right answers; with rotations `circular_accuracy` is the share of questions that
        were answered right in every one, and `guessing` what guessing would reach in `accuracy`."""
        judged = [row for row in rows if row.judged]
        turns: dict[str, list[bool]] = defaultdict(list)
        for row in judged:
            turns[str(row.meta.get("question", row.id))].append(bool(row.correct))
        chance = [1 / int(str(row.meta["num_options"])) for row in judged if "num_options" in row.meta]
        guessing = Number(value=float(np.mean(chance)) if chance else None, n=len(chance))
        if all(len(answers) == 1 for answers in turns.values()):
            return {"accuracy": correct(rows), "guessing": guessing}
        return {
            # Rotations of one question are no independent samples: questions are resampled.
            "accuracy": mean(float(np.mean(answers)) for answers in turns.values()),
            "circular_accuracy": share(all(answers) for answers in turns.values()),
            "guessing": guessing,
        }
