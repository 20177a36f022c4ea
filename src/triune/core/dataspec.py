"""The `data` section of a recipe: which files, through which adapter, in what shares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from triune.core.base import Frozen
from triune.core.plugin import PlugIn

AdapterOptions = Annotated[BaseModel, PlugIn("triune.data.adapters:ADAPTERS")]
OptionalAdapter = Annotated[BaseModel | None, PlugIn("triune.data.adapters:ADAPTERS", optional=True)]
Share = Annotated[float, Field(gt=0)]


class SourceSpec(Frozen):
    """Where samples come from: embedded sources by pattern, or files through an adapter."""

    name: str = Field(
        description="name in every metric; or a pattern over the embedded sources: embedded/counting/*"
    )
    path: str | None = Field(
        None,
        description="file or glob of Parquet, JSONL or JSON rows; none: embedded, or with heldout_path only evaluated",
    )
    adapter: OptionalAdapter = Field(None, description="row format of the files; default: data.adapter")
    weight: Share | Literal["rows"] = Field(
        1.0,
        description="share of the prompts, divided evenly among all that a pattern matches; "
        "rows: as many as it has samples, so that sources weighted so are one shuffled pile",
    )
    heldout_path: str | None = Field(None, description="file or glob with the held-out rows")
    heldout_fraction: float = Field(
        0.0, ge=0, lt=1, description="or: share of the rows, chosen by id, that is held out"
    )
    params: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="of its samples' checks, over their own: {detection: {iou: 0.99}}"
    )


class DataSpec(Frozen):
    root: Path = Field(Path(), description="folder that relative paths of sources start from")
    adapter: AdapterOptions = Field(
        "triune", validate_default=True, description="row format of sources that name none"
    )
    sources: tuple[SourceSpec, ...] = Field(min_length=1, description="what is trained and evaluated on")
    train_on: tuple[str, ...] = Field(
        (),
        description="patterns over the sources' names: only these are trained on, all are evaluated; none: all",
    )
    heldout_per_source: int = Field(64, ge=0, description="held-out samples of each source in an evaluation")
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="a row that cannot be used stops the run, or is skipped, counted and reported"
    )
