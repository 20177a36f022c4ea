"""What the policy would have said with another picture before it: masked, noised, somebody else's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from triune.algo.options import VIEWS, ViewOptions
from triune.policy.corrupt import AnyCorruption, Patches


@VIEWS.register("corrupted")
class CorruptedPictures(ViewOptions):
    """The same tokens scored by the same policy, its pictures replaced by corrupted ones of the same size.

    A corrupted picture is drawn once per step, from the run's seed, the step and the picture's content: rollouts that
    share a picture share its corruption, however the step is cut. A rollout without pictures is seen as it is.

    One more forward pass per rollout. Without `gradient` it is made once per step, by the policy before it moves (PAPO's
    default), or with `recompute` by the weights of the moment. With `gradient` it is recomputed and differentiated: a
    backward pass more, and as many activations again.
    """

    kind: Literal["corrupted"] = "corrupted"
    corruption: AnyCorruption = Field(
        default_factory=Patches, description="what is done to a picture, by its kind"
    )
    gradient: bool = Field(
        default=False, description="losses also move what the policy says of these pictures"
    )
    recompute: bool = Field(
        default=False, description="scored by the weights of the moment even without gradient"
    )

    @property
    def differentiable(self) -> bool:
        return self.gradient

    @property
    def live(self) -> bool:
        return self.differentiable or self.recompute
