"""A sample: one row of data that carries its own prompt, media, truth and reward routing (V-Triune, section 3.1)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from triune.core.base import Frozen
from triune.core.media import Media
from triune.core.response import Response
from triune.core.schedule import Progress, Schedule, resolve

Frame = Literal["pixels_original", "pixels_processed", "unit", "per_mille"]
"""Coordinate frame of boxes and points: half-open, continuous (x1, y1, x2, y2); per_mille is 0..1000 of the image."""


class Text(Frozen):
    type: Literal["text"] = "text"
    text: str


class Picture(Frozen):
    """A place in the conversation where medium number `media` of the sample is shown."""

    type: Literal["image", "video"] = "image"
    media: int = Field(ge=0)


Block = Annotated[Text | Picture, Field(discriminator="type")]


class Message(Frozen):
    role: Literal["system", "user", "assistant", "tool"]
    content: tuple[Block, ...]

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.content if isinstance(block, Text))


class Check(Frozen):
    """One routed reward term: a verifier, its weight and its parameters, all owned by the sample.

    `schedule` maps a parameter's name, or `weight`, to a function of progress that overrides it. `gate` names another
    check of the sample: this one counts only when that one judged the rollout correct. `name` tells two checks with
    the same verifier apart and defaults to the verifier's name. `weight` also says which check is the main one.
    """

    verifier: str
    weight: float = 1.0
    params: dict[str, JsonValue] = Field(default_factory=dict)
    schedule: dict[str, Schedule] = Field(default_factory=dict)
    gate: str | None = None
    name: str = Field("", validate_default=True)

    @field_validator("name", mode="before")  # of the field alone, so that JSON can be validated strictly
    @classmethod
    def _named(cls, name: object, info: ValidationInfo) -> object:
        return info.data.get("verifier", "") if name == "" else name

    def weight_at(self, progress: Progress) -> float:
        """The weight that counts at this progress."""
        return resolve(self.schedule["weight"], progress) if "weight" in self.schedule else self.weight


class EnvSpec(Frozen):
    """The environment that an episode runs in, and its parameters."""

    name: str
    params: dict[str, JsonValue] = Field(default_factory=dict)


class Sample(Frozen):
    """One task instance. `truth` is whatever its verifiers expect; `frame` is the frame of any boxes in it.

    `expert` is an optional demonstration, `responses` are other recorded answers (preference pairs, scored
    reasonings); `normalize` divides the reward by the sum of the weights (V-Triune's server does, its paper does not).
    """

    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    task: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    media: tuple[Media, ...] = ()
    truth: JsonValue = None
    frame: Frame = "pixels_original"
    checks: tuple[Check, ...] = Field(min_length=1)
    normalize: bool = False
    tools: tuple[str, ...] = ()
    env: EnvSpec | None = None
    expert: str | None = None
    responses: tuple[Response, ...] = ()
    meta: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Sample:
        shown = [b.media for m in self.messages for b in m.content if isinstance(b, Picture)]
        if shown != list(range(len(self.media))):
            raise ValueError(
                f"sample {self.id!r}: the messages show media {shown} but the sample has {len(self.media)} media; "
                "every medium must be shown exactly once, in order"
            )
        names = [check.name for check in self.checks]
        if len(set(names)) != len(names):
            raise ValueError(f"sample {self.id!r}: two checks share a name in {names}; give them a `name`")
        for check in self.checks:
            if check.gate is not None and (check.gate not in names or check.gate == check.name):
                raise ValueError(
                    f"sample {self.id!r}: check {check.name!r} is gated by unknown check {check.gate!r}"
                )
        return self

    def resolved(self, progress: Progress) -> dict[str, float]:
        """What the checks' schedules say at this progress, by `check.parameter`: recorded with every trajectory."""
        return {f"{c.name}.{key}": resolve(s, progress) for c in self.checks for key, s in c.schedule.items()}


__all__ = ["Block", "Check", "EnvSpec", "Frame", "Media", "Message", "Picture", "Response", "Sample", "Text"]
