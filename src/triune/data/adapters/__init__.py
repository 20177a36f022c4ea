"""Adapters: one foreign row format each, `row -> Sample`. A new format is one file here of about 40 lines.

An adapter is a small frozen model: its fields are its options, written in a recipe beside its `kind`. It checks
nothing that `Row` can check for it, and never guesses: what it cannot read it refuses with `row.error`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, JsonValue, ValidationError

from triune.core.base import Frozen
from triune.core.errors import DataError
from triune.core.registry import Registry
from triune.core.sample import Sample
from triune.data.responses import completion, recorded
from triune.data.rows import Row

Columns = tuple[str, ...]
"""Columns of a row, dotted where they are leaves of structs: reward_model.ground_truth."""


class Adapter(Frozen):
    """Base of every adapter.

    `examples` are rows as the format has them, showing `picture.png`: the contract test feeds them, whole and damaged.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    kind: str
    folder: Path | None = Field(
        None, description="where relative media paths start; default: the data file's folder"
    )
    allow_outside: bool = Field(
        False, description="read pictures whose paths or links lead out of that folder"
    )
    keep: tuple[str, ...] = Field(
        (),
        description="columns kept as they are in the samples' `meta`, for reward functions that want them; a dotted name is a "
        "leaf of a struct",
    )
    expert: str = Field(
        "", description="column with a demonstration, in place of what the format has for one"
    )
    responses: str = Field(
        "",
        description="column with recorded answers, in place of what the format has for them: a text, "
        "{text, label, score, branch}, or a list of these",
    )

    @abstractmethod
    def sample(self, row: Row) -> Sample:
        """The sample of one row. Raises DataError naming file and row when the row is unusable."""

    @abstractmethod
    def wants(self) -> tuple[Columns, ...]:
        """The columns that rows of this format have: one tuple for each of its forms."""

    def read(self, row: Row) -> Sample:
        """The sample of one row, with the columns that the recipe names beside those of the format. Raises DataError as
        `sample` does."""
        sample = self.sample(row)
        if self.expert:
            sample = sample.model_copy(update={"expert": completion(row, self.expert)})
        if self.responses:
            sample = sample.model_copy(update={"responses": recorded(row, self.responses)})
        if not self.keep:
            return sample
        meta = {**sample.meta, **{name: _kept(row, name) for name in self.keep}}
        try:
            return Sample.model_validate({**dict(sample), "meta": meta})
        except ValidationError as error:
            raise row.error(
                "wrong_type", f"a column to keep is no JSON value: {error.errors()[0]['loc']}"
            ) from None

    def group(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that make a sample each; a format that spreads a sample over rows puts them together in `rest`."""
        return iter(rows)

    def recognise(self, row: Row) -> None:
        """Raises DataError when rows of a file are of another format: what they have, what is wanted, what would fit."""
        if _fit(self, row.values):
            return
        lacking = min(
            ([name for name in form if not _has(row.values, name)] for form in self.wants()), key=len
        )
        forms = ", or ".join(" and ".join(form) for form in self.wants())
        raise DataError(
            f"{row.file}, row {row.number}: not a row that adapter {self.kind!r} reads. It wants {forms}; the columns are "
            f"{', '.join(map(str, row.values)) or '(none)'}: {' and '.join(lacking)} missing. {_advice(row.values)}"
        )


def _kept(row: Row, name: str) -> JsonValue:
    value: Any = row.values
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise row.error("missing_field", f"there is no {name!r} to keep")
        value = value[part]
    kept: JsonValue = value
    return kept


def _has(values: Any, name: str) -> bool:
    """Whether a row has the column; of a struct that is null in this row, the leaves are not known."""
    head, _, rest = name.partition(".")
    if values is None:
        return True
    return isinstance(values, Mapping) and head in values and (not rest or _has(values[head], rest))


def _fit(adapter: Adapter, values: Mapping[str, Any]) -> int:
    """How many columns of its best form the row has, if it has them all; else 0."""
    return max((len(form) for form in adapter.wants() if all(_has(values, name) for name in form)), default=0)


def _advice(values: Mapping[str, Any]) -> str:
    fits = {kind: _fit(ADAPTERS[kind](kind=kind), values) for kind in ADAPTERS}
    best = [kind for kind, columns in fits.items() if columns and columns == max(fits.values())]
    if best:
        return f"They look like rows of another format: set adapter: {' or '.join(best)}"
    return (
        "No adapter knows them as they are: name the columns in the adapter's options, as in "
        "adapter: {kind: folder, answers: math, prompt: '{question}', answer: solution}"
    )


ADAPTERS: Registry[type[Adapter]] = Registry("adapter", "triune.data.adapters")
