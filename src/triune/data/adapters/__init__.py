"""Adapters: one foreign row format each, `row -> Sample`. A new format is one file here of about 40 lines.

An adapter is a small frozen model: its fields are its options, written in a recipe beside its `kind`. It checks
nothing that `Row` can check for it, and never guesses: what it cannot read it refuses with `row.error`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from triune.core.base import Frozen
from triune.core.registry import Registry
from triune.core.sample import Sample
from triune.data.rows import Row


class Adapter(Frozen):
    """Base of every adapter.

    `examples` are rows as the format has them, showing `picture.png`: the contract test feeds them, whole and damaged.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    kind: str
    folder: Path | None = Field(
        None, description="where relative media paths start; default: the data file's folder"
    )

    @abstractmethod
    def sample(self, row: Row) -> Sample:
        """The sample of one row. Raises DataError naming file and row when the row is unusable."""


ADAPTERS: Registry[type[Adapter]] = Registry("adapter", "triune.data.adapters")
