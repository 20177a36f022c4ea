"""The `monitor` section of a recipe: where numbers go, and what is kept of a run."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, JsonValue, field_validator, model_validator

from triune.core.base import Frozen
from triune.core.errors import RecipeError
from triune.core.plugin import Known, PlugIn

SinkOptions = Annotated[BaseModel, PlugIn("triune.monitor.sinks:SINKS")]

REFLECTION_WORDS = (
    "re-check", "re-evaluate", "re-examine", "re-think", "recheck", "reevaluate", "reexamine", "reevaluation", "rethink",
    "check again", "think again", "try again", "verify", "wait", "yet",
)  # fmt: skip
"""V-Triune's fifteen reflection words, matched as substrings of the lower-cased text."""


Share = Annotated[float, Field(ge=0, le=1)]


Rules = Annotated[tuple[str, ...], AfterValidator(Known("triune.monitor.alarms:ALARMS"))]


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
    alarms: dict[str, dict[str, JsonValue] | None] = Field(
        default_factory=dict,
        description="options of rules that watch the run, by name; null leaves a rule out",
    )
    stop_on: Rules = Field((), description="rules whose alarms end the run, after a checkpoint")
    buffer_mb: int = Field(
        256, ge=1, description="megabytes of rollouts that may wait for the disk; what is beyond is not kept"
    )

    @field_validator("alarms")
    @classmethod
    def _options(
        cls, given: dict[str, dict[str, JsonValue] | None]
    ) -> dict[str, dict[str, JsonValue] | None]:
        if given:
            from triune.monitor.alarms import rules

            try:
                rules(given)
            except RecipeError as error:
                raise ValueError(str(error)) from None
        return given

    @model_validator(mode="after")
    def _stops_on_what_is_watched(self) -> MonitorSpec:
        if off := [name for name in self.stop_on if name in self.alarms and self.alarms[name] is None]:
            raise ValueError(f"stop_on names {', '.join(off)}, which alarms leaves out")
        return self
