"""MMMU (Yue et al. 2024): questions of the published Parquet files, answers for the repository's `mmmu/` scripts.

Format: MMMU-Benchmark/MMMU at bb0b95a, `mmmu/README.md` (output folder), `mmmu/main_parse_and_eval.py` (reads `id`,
`question_type`, `answer`, `response`, and for multiple choice `all_choices` and `index2ans`), `mmmu/main_eval_only.py`
(one file: id to answer), `mmmu/utils/data_utils.py` (`get_multi_choice_info`, subject names).
"""

from __future__ import annotations

import ast
import re
import string
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from triune.core.sample import Frame, Sample
from triune.data.rows import Row
from triune.evaluation.predictions import Prediction
from triune.evaluation.suites import PLACES, SUITES, Loaded, save, worded
from triune.evaluation.suites.external import ELSEWHERE, External
from triune.verify.choice import ChoiceParams, read_option
from triune.verify.verifier import Unparsed

CHOICE = "{question}\n{options}\nAnswer with the letter of the right option, {place}."
OPEN = "{question}\nAnswer with a word, a phrase or a number, {place}."
_PLACE = re.compile(r"<image (\d+)>")


@SUITES.register("mmmu")
class MMMU(External):
    """Rows with `id`, `question` (`<image 1>` where a picture is), `options` (a Python list as text), `answer`,
    `question_type`, `image_1` ... `image_7`."""

    kind: Literal["mmmu"] = "mmmu"
    choice_prompt: str = Field(CHOICE, description="wording; {question}, {options} and {place} are filled in")
    open_prompt: str = Field(OPEN, description="wording; {question} and {place} are filled in")

    def load(self, frame: Frame) -> Loaded:
        return self.collect(self.table(), self._sample)

    def _sample(self, row: Row) -> Iterator[Sample]:
        options = self._options(row)
        closed = row.need("question_type", str) == "multiple-choice"
        if closed and not options:
            raise row.error("invalid", "a multiple-choice question without options")
        text = worded(
            self.choice_prompt if closed else self.open_prompt,
            question=row.need("question", str),
            options="\n".join(f"({a}) {b}" for a, b in zip(string.ascii_uppercase, options, strict=False)),
            place=PLACES[self.answer],
        )
        # A picture may be named twice (in question and option); it is shown at its first place.
        named = list(dict.fromkeys(_PLACE.findall(text)))
        first: set[str] = set()

        def show(match: re.Match[str]) -> str:
            if match[1] in first:
                return f"[image {match[1]}]"
            first.add(match[1])
            return "<image>"

        pictures = [row.values.get(f"image_{number}") for number in named]
        if not named:
            pictures = [one for i in range(1, 8) if (one := row.values.get(f"image_{i}")) is not None]
        if any(one is None for one in pictures):
            raise row.error("missing_media", f"the text shows images {named}, not all of which the row has")
        yield self.ask(
            row.with_values(images=pictures),
            _PLACE.sub(show, text),
            id=row.need("id", str),
            truth=row.values.get("answer"),
            checks=ELSEWHERE,
            image="images",
            meta={"question_type": row.need("question_type", str), "options": [*options]},
        )

    def _options(self, row: Row) -> list[str]:
        listed: Any = row.values.get("options")
        if isinstance(listed, str):
            try:
                listed = ast.literal_eval(listed)
            except (ValueError, SyntaxError) as error:
                raise row.error("wrong_type", f"field 'options' is not a list: {listed[:60]!r}") from error
        if listed is not None and not isinstance(listed, list | tuple):
            raise row.error("wrong_type", f"field 'options' is not a list: {listed!r}"[:200])
        return [str(one) for one in listed or ()]

    def write(self, rows: Sequence[Prediction]) -> list[Path]:
        """`SUBJECT/output.json` for every subject, and `total_output.json`."""
        subjects: dict[str, list[dict[str, Any]]] = defaultdict(list)
        total = {}
        for row in rows:
            options = row.meta.get("options")
            letters = dict(
                zip(
                    string.ascii_uppercase,
                    map(str, options if isinstance(options, list) else []),
                    strict=False,
                )
            )
            said = self.final(row)
            item: dict[str, Any] = {
                "id": row.id,
                "question_type": row.meta["question_type"],
                "answer": row.truth,
            }
            if row.meta["question_type"] == "multiple-choice":
                item |= {"all_choices": list(letters), "index2ans": letters}
                try:
                    total[row.id] = read_option(said, ChoiceParams(options=tuple(letters.values())))
                except Unparsed:
                    total[row.id] = ""
            else:
                total[row.id] = said
            # split_Subject_With_Underscores_number
            subjects["_".join(row.id.split("_")[1:-1])].append({**item, "response": said})
        written = [save(self.out / subject / "output.json", held) for subject, held in subjects.items()]
        return [*written, save(self.out / "total_output.json", total)]

    def commands(self) -> list[str]:
        out = self.out.resolve()
        return [
            "cd mmmu",
            f"python main_parse_and_eval.py --path {out} --subject ALL && python print_results.py --path {out}",
            f"python main_eval_only.py --output_path {out}/total_output.json --answer_path answer_dict_val.json",
        ]
