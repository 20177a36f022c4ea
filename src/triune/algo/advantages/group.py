"""Group-relative advantages: rollouts of one prompt against each other."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from triune.algo.advantages.statistics import GroupEstimator, Groups, spread
from triune.algo.options import ADVANTAGES


@ADVANTAGES.register("group")
class GroupRelative(GroupEstimator):
    """GRPO: (r - mean_g) / (std_g + eps) over the rollouts of one group (DeepSeekMath, section 4.1.2).

    `scale: none` is Dr.GRPO; `batch` divides by the std of all rewards of the step (TRL's `scale_rewards`). A group with
    fewer than two judged members, or none of whose rewards differ, gives no gradient: its advantages are exactly 0.
    """

    kind: Literal["group"] = "group"
    scale: Literal["std", "none", "batch"] = Field(default="std", description="what is divided by")
    ddof: Literal[0, 1] = Field(
        default=1, description="the std divides by n - ddof: 1 in all code, 0 in some papers"
    )
    eps: float = Field(default=1e-6, ge=0, description="added to the std (verl 1e-6, TRL 1e-4)")

    @property
    def batch_wide(self) -> bool:
        return self.scale == "batch"

    def estimate(self, groups: Groups) -> Tensor:
        centred = groups.centred()
        if self.scale == "none":
            return centred
        if self.scale == "batch":
            return centred / (spread(groups.reward[groups.counted], self.ddof) + self.eps)
        return centred / (groups.std(centred, self.ddof) + self.eps)[groups.index]
