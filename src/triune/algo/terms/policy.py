"""What all policy terms share: the comparison with an earlier policy, and a declared gradient.

Every one of them satisfies d phi / d logp = -W A per decision, with a detached W that can be written down. A term
states it as `gradient_weight`, apart from its loss; a contract test finds every term and holds autograd against it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from triune.algo.kl import estimate
from triune.algo.objective import TermResult
from triune.algo.options import TermOptions
from triune.algo.ratio import Level, log_ratio, ratio, row_mean, slope
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import by_source


@dataclass(slots=True)
class Compared:
    """Two policies at the decisions of a micro-batch; outside the live ones log-probs, log-ratios and advantages are 0.

    logp [N] carries the gradient; earlier [N] does not; logs = logp - earlier, unclamped.
    """

    batch: Batch
    live: Tensor
    advantage: Tensor
    logp: Tensor
    earlier: Tensor
    logs: Tensor

    def ratio(self, level: Level) -> Tensor:
        """exp(logs) at a level, [N], with gradient; its log is clamped."""
        return ratio(self.batch, self.live, self.logs, level)

    def slope(self, level: Level) -> Tensor:
        """Derivative of the row's ratios by one log-ratio, [N], detached: see `triune.algo.ratio.slope`."""
        return slope(self.batch, self.live, self.logs.detach(), level)


class PolicyTerm(TermOptions):
    """A policy-gradient term: a loss per decision, phi, summed with the weights that hold the denominators.

    `against`: the policy that ratios are taken against. `old` is the learner before the step (three policies where the
    engine differs from it: correct for that with the adjustment `mismatch`); `behavior` is what the engine recorded (two
    policies: the ratio corrects by itself, and `mismatch` beside it is refused).
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Parameters that the contract test of the gradient runs with."""

    against: Literal["old", "behavior"] = Field(
        default="old", description="earlier policy of the ratio: the learner before the step, or the engine"
    )
    max_drift: float | None = Field(
        default=None,
        gt=0,
        description="a rollout of negative advantage is left out where the mean of (logp_behavior - logp) exceeds this",
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old"} if self.against == "old" else ())

    @abstractmethod
    def losses(self, seen: Compared) -> Tensor:
        """phi per decision, [N]; finite everywhere."""

    @abstractmethod
    def gradient_weight(self, seen: Compared) -> Tensor:
        """W per decision, [N], detached: d sum(w phi) / d logp_n = -w_n W_n A_n for weights and advantages that are
        constant within a row (or any, for terms whose ratio is per token)."""

    def metrics(self, seen: Compared) -> dict[str, Tensor]:
        """Values per decision to report, by source, beside the ratio's own."""
        return {}

    def compare(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> Compared:
        """Both policies with everything outside the loss replaced."""
        live = batch.live
        earlier = batch.logp_behavior if self.against == "behavior" else views["old"].logp
        return Compared(
            batch=batch,
            live=live,
            advantage=torch.where(live, batch.advantage, 0.0),
            logp=torch.where(live, current.logp, 0.0),
            earlier=torch.where(live, earlier, 0.0),
            logs=log_ratio(live, current.logp, earlier),
        )

    def kept(self, seen: Compared) -> Tensor:
        """Which decisions may push, bool[N]: all, unless `max_drift` leaves out a rollout that the policy has moved away
        from and that it is pushed further from (DeepSeek-V3.2, eq. 9; it stays in the denominators, as in TRL)."""
        if self.max_drift is None:
            return seen.live
        gap = log_ratio(seen.live, seen.batch.logp_behavior, seen.logp.detach())
        return seen.live & ((seen.advantage >= 0) | (row_mean(seen.batch, seen.live, gap) <= self.max_drift))

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        seen = self.compare(batch, current, views)
        kept = self.kept(seen)
        loss = (torch.where(kept, self.losses(seen), 0.0) * batch.weight).sum()
        logs = seen.logs.detach()
        found = {
            "ratio": ratio(batch, seen.live, logs, "token"),
            "approx_kl": estimate("k3", -logs),
            "log_ratio_abs": logs.abs(),
            **self.metrics(seen),
        }
        if self.max_drift is not None:
            found["drifted"] = (~kept).float()
        prefix = "" if self.component == "policy" else f"{self.component}/"
        return TermResult(loss, by_source(batch, seen.live, {prefix + k: v for k, v in found.items()}))
