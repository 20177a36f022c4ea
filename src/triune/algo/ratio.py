"""Ratios of two policies over the decisions that a term trains: per decision, and per sequence.

A sequence is a row of the batch (a rollout, or a fragment of one): it is never cut, so nothing here depends on the
micro-batches. Outside the live decisions a log-ratio is exactly 0, whatever the log-probs there are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from triune.algo.types import Batch, segment_sum

Level = Literal["token", "sequence_geomean", "sequence_geomean_token", "sequence_product"]
"""What one ratio is of. `sequence_geomean` is exp of the row's mean log-ratio (GSPO), `sequence_product` exp of its sum
(RLOO in TRL, TOPR); `sequence_geomean_token` has the value of `sequence_geomean` and each decision's own gradient
(GSPO-token, verl's `sg[s] exp(l - sg[l])`), which differs only where the advantage or weight varies within a row."""

LOG_BOUND = 20.0
"""exp() of a log-ratio beyond this overflows or means nothing; there is no gradient beyond it. Reported unclamped."""
GEOMEAN_BOUND = 10.0
"""The same for a mean log-ratio, from above only: a sequence that became unlikely has a ratio of nearly 0 (verl)."""


def log_ratio(live: Tensor, later: Tensor, earlier: Tensor) -> Tensor:
    """later - earlier where `live` bool[N], 0 elsewhere; both sides are replaced before they are subtracted."""
    return torch.where(live, later, 0.0) - torch.where(live, earlier, 0.0)


def row_sum(batch: Batch, values: Tensor) -> Tensor:
    """Sum of `values` [N] over the row of each decision, [N]."""
    return segment_sum(values, batch.trajectory, len(batch.trajectories))[batch.trajectory]


def row_mean(batch: Batch, live: Tensor, values: Tensor) -> Tensor:
    """Mean of `values` [N] (0 outside `live`) over the live decisions of each decision's row, [N]; 0 where none is."""
    return row_sum(batch, values) / row_sum(batch, live.to(values.dtype)).clamp(min=1)


def ratio(batch: Batch, live: Tensor, logs: Tensor, level: Level) -> Tensor:
    """exp of the log-ratios [N] at a level, [N]; the ratio of its row at every decision for the sequence levels."""
    if level == "token":
        return logs.clamp(-LOG_BOUND, LOG_BOUND).exp()
    if level == "sequence_product":
        return row_sum(batch, logs).clamp(-LOG_BOUND, LOG_BOUND).exp()
    mean = row_mean(batch, live, logs)
    if level == "sequence_geomean_token":
        mean = mean.detach() + logs - logs.detach()
    return mean.clamp(max=GEOMEAN_BOUND).exp()


def slope(batch: Batch, live: Tensor, logs: Tensor, level: Level) -> Tensor:
    """Derivative of the row's sum of ratios by one decision's log-ratio, [N]: the ratio, times the number of the row's
    live decisions for the product (which all of them hold whole), and 0 where its log is beyond the bound."""
    found = ratio(batch, live, logs, level)
    if level == "token":
        bounded = logs.abs() <= LOG_BOUND
    elif level == "sequence_product":
        bounded = row_sum(batch, logs).abs() <= LOG_BOUND
        found = found * row_sum(batch, live.to(logs.dtype))
    else:
        bounded = row_mean(batch, live, logs) <= GEOMEAN_BOUND
    return torch.where(bounded, found, 0.0)
