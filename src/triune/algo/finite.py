"""Log-probabilities of trained decisions must be finite: an impossible decision that was drawn all the same is a bug."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from triune.algo.share import Share
from triune.algo.types import Batch, Evaluated
from triune.algo.weights import by_source
from triune.core.errors import ParityError
from triune.monitor.metric import Metric


def finite(
    batch: Batch,
    terms: Mapping[str, Any],
    shares: Mapping[str, Share],
    views: Mapping[str, Evaluated],
    floor: float | None,
) -> tuple[dict[str, Evaluated], list[Metric]]:
    """The views (`current` among them) with a finite log-prob for every decision that a term trains and needs them for,
    and what had to be replaced, counted per source.

    Raises ParityError that names the rollout for a NaN, or, without a `floor`, for a -inf: what was drawn has become
    impossible. With one, a -inf becomes the floor, and has no gradient.
    """
    found, metrics = dict(views), list[Metric]()
    for name, seen in views.items():
        live = torch.zeros(batch.num_decisions, dtype=torch.bool)
        for key, term in terms.items():
            if name == "current" or any(need.split(".")[0] == name for need in term.needs):
                live = live | shares[key].live
        bad = live & ~torch.isfinite(seen.logp.detach())
        if not bool(bad.any()):
            continue
        worst = bad if floor is None else bad & (seen.logp != -torch.inf)
        if floor is None or bool(worst.any()):
            at = int(torch.nonzero(worst)[0])
            row = int(batch.trajectory[at])
            place = at - int(torch.nonzero(batch.trajectory == row)[0])
            raise ParityError(
                f"rollout {batch.trajectories[row].id!r}: its decision {place} is trained, but the log-prob is "
                f"{float(seen.logp.detach()[at])} in the view {name!r}. Either the sampling rule (banned ids, top-p, top-k, a "
                "grammar) is not the one that it was drawn by, or the weights have diverged. `algo.logp_floor: -30` "
                "replaces a -inf, and counts it"
            )
        found[name] = replace(seen, logp=torch.where(bad, floor, seen.logp))
        metrics += by_source(batch, live, {f"logp_floored/{name}": bad})
    return found, metrics
