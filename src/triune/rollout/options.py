"""Options of the generators. Imports no torch: a recipe can be read without it."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import Field

from triune.core.base import Frozen
from triune.core.registry import Registry

ROLLOUTS: Registry[type[Any]] = Registry("rollout", "triune.rollout")


@ROLLOUTS.register("native")
class NativeOptions(Frozen):
    """In-process sampling with the learner's own weights: the prompt and its pictures are computed once per group.

    There is no top_p or top_k: a training ratio needs the whole distribution, and evaluation is greedy.
    `refresh_every` and `dtype` make rollouts stale or rounded on purpose: see rollout/lagging.py.
    """

    kind: Literal["native"] = "native"
    max_tokens: int = Field(64, ge=1, description="longest response (one turn) in tokens")
    max_turns: int = Field(1, ge=1, description="turns of an episode with an environment")
    max_images: int = Field(16, ge=1, description="pictures of an episode, the prompt's included")
    temperature: float = Field(1.0, gt=0, description="of training rollouts; evaluation is greedy")
    max_rows: int = Field(512, ge=1, description="sequences decoded at once")
    refresh_every: int = Field(
        1,
        ge=1,
        description="updates between two refreshes of the weights that sample; above 1, rollouts are up to so many less one "
        "updates old",
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="arithmetic of sampling; none: the policy's own"
    )

    def build(self, family: Any) -> Any:
        """A conversation generator over the family's native engine."""
        from triune.rollout.episode import Conversations
        from triune.rollout.native import NativeEngine

        generator = Conversations(
            family,
            NativeEngine(family, max_rows=self.max_rows),
            max_tokens=self.max_tokens,
            max_turns=self.max_turns,
            max_images=self.max_images,
        )
        if self.refresh_every == 1 and self.dtype in (None, str(family.model.dtype).removeprefix("torch.")):
            return generator
        import torch

        from triune.rollout.lagging import Lagging

        dtype = getattr(torch, self.dtype) if self.dtype else None
        return Lagging(generator, family, self.refresh_every, dtype)


@ROLLOUTS.register("recorded")
class RecordedOptions(NativeOptions):
    """The answers that samples carry, in place of drawn ones: offline training (DPO, SFT). The limits are for evaluation, whose
    answers are drawn; `temperature` is that of the log-probs."""

    kind: Literal["recorded"] = "recorded"  # type: ignore[assignment]
    answers: Literal["responses", "expert"] = Field(
        "responses", description="a sample's recorded answers, or its demonstration alone"
    )

    def build(self, family: Any) -> Any:
        """The recorded answers for training, and a native engine for evaluation."""
        from triune.rollout.recorded import Recorded

        return Recorded(family, partial(super().build, family), self.answers)
