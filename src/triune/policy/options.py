"""Options of the policy families. Imports no torch: a recipe can be read without it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from triune.core.base import Frozen
from triune.core.registry import Registry
from triune.core.sample import Frame

POLICIES: Registry[type[Any]] = Registry("policy", "triune.policy.options")


@POLICIES.register("language")
class LanguageOptions(Frozen):
    """A Hugging Face vision-language model, through transformers. `path: nano` is the embedded one."""

    kind: Literal["language"] = "language"
    path: str = Field(
        "nano", description="nano, or a directory or hub id in Hugging Face layout (safetensors only)"
    )
    frame: Frame = Field("pixels_processed", description="coordinate frame in which this model writes boxes")
    window: int = Field(0, ge=0, description="longest prompt + response in tokens; 0: the model's own limit")
    layout: Literal["auto", "shared", "padded"] = Field(
        "auto",
        description="training rows: the prompt once per group, one row per rollout, or what costs less",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic of the model")
    attention: Literal["eager", "sdpa"] = Field("sdpa", description="attention kernel of transformers")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the checkpoint")
    token_budget: int = Field(16_384, ge=1, description="tokens of one micro-batch")

    def build(self) -> Any:
        """Loads the model: triune.policy.language.LanguageFamily."""
        from triune.policy.language import LanguageFamily

        return LanguageFamily.from_pretrained(self)
