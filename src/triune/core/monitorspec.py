"""The `monitor` section of a recipe: where numbers go, and what is kept of a run."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from triune.core.base import Frozen
from triune.core.plugin import PlugIn

SinkOptions = Annotated[BaseModel, PlugIn("triune.monitor.sinks:SINKS")]

REFLECTION_WORDS = (
    "re-check", "re-evaluate", "re-examine", "re-think", "recheck", "reevaluate", "reexamine", "reevaluation", "rethink",
    "check again", "think again", "try again", "verify", "wait", "yet",
)  # fmt: skip
"""V-Triune's fifteen reflection words, matched as substrings of the lower-cased text."""


Share = Annotated[float, Field(ge=0, le=1)]


class MonitorSpec(Frozen):
    sinks: tuple[SinkOptions, ...] = Field(
        ("console",), validate_default=True, description="where metrics go besides the run's own files"
    )
    words: tuple[str, ...] = Field(REFLECTION_WORDS, description="words whose use is counted per source")
    rollouts_every: int = Field(1, ge=0, description="steps between saved rollouts; 0: none")
    keep: dict[str, Share] = Field(
        default_factory=dict,
        description="share of the groups whose rollouts are saved, by source or task; 1 where nothing is said",
    )
    buffer_mb: int = Field(
        256, ge=1, description="megabytes of rollouts that may wait for the disk; what is beyond is not kept"
    )
