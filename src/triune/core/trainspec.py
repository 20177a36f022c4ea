"""The `train` section of a recipe: how long, how much at once, by which optimiser, and what is saved and evaluated on the way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from triune.core.base import Frozen
from triune.core.plugin import Known

Probes = Annotated[tuple[str, ...], AfterValidator(Known("triune.evaluation.probes:PROBES"))]


class OptimizerSpec(Frozen):
    """AdamW. Modules are named as the policy names them (vision, connector, language for V-Triune)."""

    lr: float = Field(1e-6, ge=0, description="learning rate")
    lr_by_module: dict[str, float] = Field(
        default_factory=dict, description="learning rates that differ, by module"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of the rate, after warm-up, to 0"
    )
    warmup_fraction: float = Field(
        0.05, ge=0, lt=1, description="share of the run in which the rate rises from 0"
    )
    clip_norm: float = Field(
        1.0, gt=0, description="global gradient norm above which gradients are scaled down"
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the first and second moment")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay")


class TrainSpec(Frozen):
    total_steps: int = Field(ge=1, description="rollout batches in the run; schedules are fractions of it")
    prompts_per_step: int = Field(ge=1, description="samples drawn for one rollout batch")
    rollouts_per_prompt: int = Field(8, ge=1, description="group size G")
    minibatches_per_step: int = Field(
        1, ge=1, description="optimiser steps per rollout batch; 1 is on-policy"
    )
    optimizer: OptimizerSpec = OptimizerSpec()
    freeze: tuple[str, ...] = Field((), description="modules whose weights do not change")
    eval_every: int = Field(
        0, ge=0, description="steps between evaluations, besides before and after; 0: none"
    )
    eval_probes: Probes = Field(
        (), description="evaluations with other pictures besides: blind, swapped, halved"
    )
    checkpoint_every: int = Field(0, ge=0, description="steps between checkpoints; 0: only at the end")
    checkpoint_keep: int = Field(0, ge=0, description="newest checkpoints that are kept; 0: all")
    probe: bool = Field(
        True, description="before the first step, let the policy answer a few samples and check it"
    )

    @model_validator(mode="after")
    def _divides(self) -> TrainSpec:
        if self.prompts_per_step % self.minibatches_per_step:
            raise ValueError(
                f"prompts_per_step ({self.prompts_per_step}) must be a multiple of minibatches_per_step "
                f"({self.minibatches_per_step}), so that every optimiser step sees whole groups"
            )
        return self
