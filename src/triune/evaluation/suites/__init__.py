"""Suites: what is asked in an evaluation, in which words, and which numbers are made from the answers. One file each.

A suite is a small frozen model, as an adapter is: its fields are its options. `samples` words the questions; `numbers`
sees rows of predictions only, so that it works as well on a file of them, years later.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue

from triune.core.base import Frozen
from triune.core.errors import DataError
from triune.core.registry import Registry
from triune.core.sample import Check, Frame, Message, Picture, Sample, Text
from triune.data.files import atomic
from triune.data.reading import tables
from triune.data.rows import BadRow, Row
from triune.evaluation.number import Number, count, share
from triune.evaluation.predictions import Prediction
from triune.verify.extract import AnswerSource

PLACES: Mapping[AnswerSource, str] = {
    "tag": "inside <answer> and </answer>",
    "boxed": "inside \\boxed{}",
    "text": "and nothing else",
}
"""How a question says where its answer belongs, for each place that verifiers read answers from."""

COORDINATES: Mapping[Frame, str] = {
    "pixels_processed": "in pixels of the image",
    "pixels_original": "in pixels of the image",
    "per_mille": "from 0 to 1000 along each side of the image",
    "unit": "from 0 to 1 along each side of the image",
}
"""How a question says which coordinates are meant: those of the model's own frame."""


@dataclass(frozen=True)
class Loaded:
    """A suite's samples, and how many rows it left out, by reason."""

    samples: list[Sample]
    left_out: Counter[str] = field(default_factory=Counter)


class Suite(Frozen):
    """Base of every suite. `scoring` names the options that `numbers` looks at; rows of predictions carry them."""

    scoring: ClassVar[tuple[str, ...]] = ()
    shown: ClassVar[tuple[str, ...]] = ()

    kind: str
    data: str = Field(description="the file, or a glob of files, with questions and truth")
    images: Path | None = Field(
        None, description="folder where relative picture paths start; default: the data file's"
    )
    name: str = Field("", description="name of the source in every table; default: the data file's name")
    answer: AnswerSource = Field(
        "tag", description="where the answer is asked for, and read: tag, boxed or text"
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error",
        description="a row that cannot be used stops the evaluation, or is skipped, counted and reported",
    )

    @abstractmethod
    def load(self, frame: Frame) -> Loaded:
        """The samples, worded for a model that writes boxes in `frame`. Raises DataError naming file and row."""

    @abstractmethod
    def numbers(self, rows: Sequence[Prediction]) -> dict[str, Number]:
        """The figures of one source's rows, besides the counts that every suite has."""

    def write(self, rows: Sequence[Prediction]) -> list[Path]:
        """Files that other scorers read, of suites that have such; returns what was written."""
        return []

    @property
    def source(self) -> str:
        return self.name or Path(self.data).stem

    @property
    def folder(self) -> Path:
        return self.images or Path(self.data).parent

    def tag(self) -> dict[str, JsonValue]:
        """What rows of predictions carry of this suite."""
        dumped = self.model_dump(mode="json")
        return {"kind": self.kind, **{name: dumped[name] for name in self.scoring}}

    def row(self, values: Mapping[str, Any], number: int) -> Row:
        """A foreign row with typed access and errors that name file and number; held out, so wordings are fixed."""
        return Row(values, Path(self.data), number, self.folder, self.source, "heldout")

    def table(self) -> Iterator[Row]:
        """The rows of what a recipe's `path` may name: a file or a glob of Parquet, JSONL, JSON, CSV or TSV files, ..."""
        for table in tables(self.data):
            row = self.row({}, 0)
            row = replace(
                row,
                file=table.file,
                folder=self.images or table.folder,
                prefix=table.prefix,
                cached=table.large,
            )
            yield from (replace(row, values=values, number=n) for n, values in enumerate(table.rows()))

    def collect(self, rows: Iterable[Row], make: Callable[[Row], Iterable[Sample]]) -> Loaded:
        """Samples of rows; bad rows and repeated ids raise DataError, or are counted if they may be skipped."""
        samples: list[Sample] = []
        left_out: Counter[str] = Counter()
        seen: set[str] = set()
        for row in rows:
            try:
                made = list(make(row))
                for sample in made:
                    if sample.id in seen:
                        raise row.error("duplicate_id", f"id {sample.id!r} is already taken")
                seen.update(sample.id for sample in made)
                samples += made
            except DataError as error:
                if self.on_bad_row == "error":
                    raise
                left_out[error.reason if isinstance(error, BadRow) else "invalid"] += 1
        if not samples:
            raise DataError(f"{self.data} has no usable rows (left out: {dict(left_out)})")
        return Loaded(samples, left_out)

    def ask(self, row: Row, text: str, *, id: str, truth: Any, checks: Sequence[Check], image: str = "image",
            meta: Mapping[str, JsonValue] | None = None) -> Sample:  # fmt: skip
        """A sample with its pictures first, unless the text places them itself with <image>."""
        media = row.images(image)
        if not media:
            raise row.error("missing_media", f"field {image!r} names no picture")
        if "<image>" in text:
            shown = row.with_values(prompt=[{"role": "user", "content": text}]).messages("prompt", media)
        else:
            pictures = tuple(Picture(media=i) for i in range(len(media)))
            shown = (Message(role="user", content=(*pictures, Text(text=text))),)
        return row.sample(
            id=id, source=self.source, task=self.kind, messages=shown, media=media, truth=truth,
            frame="pixels_original", checks=tuple(checks), meta=dict(meta or {}),
        )  # fmt: skip


SUITES: Registry[type[Suite]] = Registry("suite", "triune.evaluation.suites")


def worded(template: str, **values: str) -> str:
    """`{name}` replaced by its value; other braces stay as they are (LaTeX and JSON have them)."""
    for name, value in values.items():
        template = template.replace("{" + name + "}", value)
    return template


def counts(rows: Sequence[Prediction]) -> dict[str, Number]:
    """What every table begins with: how many samples, and how many answers could not be read, judged or finished."""
    n = len(rows)
    return {
        "n": count(n, n),
        "unparsed": count(sum(row.status == "unparsed" for row in rows), n),
        "unjudged": count(sum(row.status != "unscored" and not row.judged for row in rows), n),
        "truncated": count(sum(row.outcome.truncated for row in rows), n),
    }


def correct(rows: Sequence[Prediction]) -> Number:
    """The share that the main check calls correct, of the judged; an unreadable answer is wrong."""
    return share(bool(row.correct) for row in rows if row.judged)


def structured(row: Row, key: str) -> Any:
    """A field that may be a list, or a list written as JSON text (all that a CSV can hold); None if absent or null."""
    value = row.values.get(key)
    if isinstance(value, str) and value.strip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise row.error("wrong_type", f"field {key!r} is not JSON: {error.msg}") from error
    return value


def save(path: Path, held: Any) -> Path:
    """JSON, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(held, ensure_ascii=False, indent=1), encoding="utf-8")
    return path
