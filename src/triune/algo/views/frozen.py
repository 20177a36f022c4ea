"""A policy that does not learn: the reference that a run began from, one that follows slowly, or a teacher."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from triune.algo.options import VIEWS, ViewOptions


@VIEWS.register("frozen")
class FrozenPolicy(ViewOptions):
    """The same tokens scored by other weights: those at the start of the run, or of the checkpoint at `path`.

    With `sync_every`, they move to mix * current + (1 - mix) * frozen after every so many steps (TRL's
    `sync_ref_model`). One more forward pass per rollout, without gradient.
    """

    kind: Literal["frozen"] = "frozen"
    path: str | None = Field(
        default=None, description="another checkpoint: a teacher; null: the policy at the start"
    )
    sync_every: int = Field(
        default=0, ge=0, description="steps between its moves towards the policy; 0: it stays"
    )
    mix: float = Field(default=1.0, gt=0, le=1, description="share of the policy in a move")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> FrozenPolicy:
        if self.path is not None and self.sync_every:
            raise ValueError("a teacher (path) does not follow the policy: leave out sync_every")
        return self
