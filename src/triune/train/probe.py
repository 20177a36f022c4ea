"""The start-up probe: a run refuses to start when engine and learner disagree, or when the policy is blind.

On a few real samples with their pictures: (1) the learner's log-probs of freshly sampled rollouts equal the engine's;
(2) the packed layout equals rollouts laid out one by one; (3) swapping the pictures between samples changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triune.core.errors import MediaMismatch, ParityError
from triune.core.sample import Sample
from triune.core.trajectory import Trajectory
from triune.policy.family import Family
from triune.rollout.generator import Demand, Generator

EXACT = 1e-4
"""Largest gap of a single log-prob in float32 between an exact engine and the learner, packed or not."""
LOOSE = 0.5
"""Largest mean gap for an engine that does not claim to be exact (other kernels, lower precision)."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Largest log-prob gaps seen: engine against learner, packed against single rows, and by swapping pictures."""

    engine: float
    packed: float
    swapped: float | None


def probe(family: Family, generator: Generator, samples: Sequence[Sample], demand: Demand) -> Probe:
    """Runs the three checks; raises ParityError saying which failed and by how much."""
    family.begin_step(samples)
    episodes = [e for row in generator.generate(samples, demand) for e in row]
    trajectories = [e.trajectory for e in episodes if len(e.trajectory.decisions)]
    with torch.no_grad():
        batch = family.pack(trajectories)
        together = family.evaluate(batch).logp
        alone = torch.cat([family.evaluate(family.pack([t])).logp for t in trajectories])
    live = batch.sampled
    gaps = (together - batch.logp_behavior).abs()[live]
    engine = float(gaps.max() if generator.exact else gaps.mean())
    packed = float((together - alone).abs()[live].max())
    limit = EXACT if generator.exact else LOOSE
    if not engine <= limit:
        raise ParityError(
            f"engine and learner disagree by {engine:.2g} in log-prob on the same tokens and pictures (limit {limit:g}): "
            "ratios would be biased. Check that both load the same weights, processor and sampling rule"
        )
    if not packed <= (EXACT if generator.exact else LOOSE):
        raise ParityError(f"packed rows differ from single rows by {packed:.2g} in log-prob; set policy.layout: padded")
    swapped = _swapped(family, trajectories, together)
    if swapped is not None and swapped < 1e-6:
        raise ParityError(
            "swapping the pictures between samples changes no log-prob: the policy does not see its pictures. "
            "Check the processor, the chat template and that the prompts contain the pictures"
        )
    return Probe(engine, packed, swapped)


def _swapped(family: Family, trajectories: Sequence[Trajectory], logp: torch.Tensor) -> float | None:
    """Largest change when every rollout is shown another sample's pictures; None if no two sets can be exchanged."""
    sizes = [len(t.decisions) for t in trajectories]
    before = dict(zip([t.id for t in trajectories], torch.split(logp, sizes), strict=True))
    largest: float | None = None
    for trajectory in trajectories:
        media = trajectory.payload.media
        other = next(
            (t.payload.media for t in trajectories if len(t.payload.media) == len(media) and t.payload.media != media), None
        )
        if not media or other is None:
            continue
        shown = trajectory.model_copy(update={"payload": trajectory.payload.model_copy(update={"media": other})})
        try:
            with torch.no_grad():
                changed = family.evaluate(family.pack([shown])).logp
        except MediaMismatch:  # pictures of another size take another number of tokens: not exchangeable
            continue
        largest = max(largest or 0.0, float((changed - before[trajectory.id]).abs().max()))
    return largest
