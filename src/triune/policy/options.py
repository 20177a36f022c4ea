"""Options of the policy families. Imports no torch: a recipe can be read without it."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from triune.core.base import Frozen
from triune.core.registry import Registry
from triune.core.sample import Frame

POLICIES: Registry[type[Any]] = Registry("policy", "triune.policy.options")


class LoraOptions(Frozen):
    """Low-rank adapters through PEFT: only they are trained."""

    rank: int = Field(16, ge=1, description="rank of an adapter")
    alpha: float = Field(32.0, gt=0, description="an adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.0, description="always 0: see docs/export.md")
    targets: str | tuple[str, ...] = Field(
        "auto",
        description="layers that get an adapter: auto (all linear ones), a list of name endings, or a regular expression",
    )
    modules: tuple[Literal["vision", "connector", "language"], ...] = Field(
        ("language",), min_length=1, description="parts of the model whose layers are looked at"
    )

    @field_validator("targets")
    @classmethod
    def _expression(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        try:
            re.compile(value if isinstance(value, str) else "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value

    @field_validator("dropout")
    @classmethod
    def _none(cls, value: float) -> float:
        if value:
            raise ValueError(
                "dropout must be 0: the learner scores the tokens that were drawn, and a network that drops other units "
                "each time would give other log-probs than those they were drawn by"
            )
        return value


class CriticOptions(Frozen):
    """A value head, for advantages and terms that need a `value`. It is the module `critic` of the policy, with a learning
    rate of its own (`train.optimizer.lr_by_module.critic`)."""

    level: Literal["token", "step"] = Field(
        "token",
        description="a value before every token of a response, or one before every turn (environment step)",
    )
    detach: bool = Field(
        False, description="the values' regression changes the head alone, not what it reads from"
    )
    hidden: int = Field(0, ge=0, description="units of a hidden layer; 0: a linear head")


@POLICIES.register("language")
class LanguageOptions(Frozen):
    """A Hugging Face vision-language model, through transformers. `path: nano` is the embedded one."""

    views: ClassVar[frozenset[str]] = frozenset({"frozen", "corrupted"})

    kind: Literal["language"] = "language"
    path: str = Field(
        "nano", description="nano, or a directory or hub id in Hugging Face layout (safetensors only)"
    )
    frame: Frame | Literal["auto"] = Field(
        "auto",
        description="coordinate frame in which this model writes boxes; auto: what its kind was taught",
    )
    min_pixels: int | None = Field(
        None, ge=1, description="pictures are enlarged to so many pixels (Qwen's processors)"
    )
    max_pixels: int | None = Field(
        None,
        ge=1,
        description="and shrunk to so many: bounds the visual tokens of a picture (Qwen's processors)",
    )
    window: int = Field(0, ge=0, description="longest prompt + response in tokens; 0: the model's own limit")
    layout: Literal["auto", "shared", "padded"] = Field(
        "auto",
        description="training rows: the prompt once per group, one row per rollout, or what costs less",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic of the model")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="where the model is: cpu, cuda, cuda:N; auto: a GPU if there is one",
    )
    attention: Literal["eager", "sdpa"] = Field("sdpa", description="attention kernel of transformers")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the checkpoint")
    lora: LoraOptions | None = Field(
        None, description="train adapters instead of the weights; none: all weights"
    )
    critic: CriticOptions | None = Field(None, description="a value head; none: no values")
    token_budget: int = Field(16_384, ge=1, description="tokens of one micro-batch")
    vision_budget: int = Field(8_192, ge=1, description="of these, at most so many of pictures")

    @model_validator(mode="after")
    def _ordered(self) -> LanguageOptions:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        return self

    def build(self) -> Any:
        """Loads the model: triune.policy.language.LanguageFamily."""
        from triune.policy.language import LanguageFamily

        return LanguageFamily.from_pretrained(self)
