"""The start-up probe: a run refuses to start when engine and learner disagree, or when the policy is blind.

On a few real samples with their pictures: (1) the learner's log-probs of freshly sampled rollouts equal the engine's;
(2) the packed layout equals rollouts laid out one by one; (3) other pictures give other log-probs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import ImageOps
from torch import Tensor

from triune.core.errors import ParityError
from triune.core.sample import Media, Sample
from triune.core.trajectory import Trajectory
from triune.policy.family import Family
from triune.rollout.generator import Demand, Generator

EXACT = 1e-4
"""Largest gap of a single log-prob in float32 between an exact engine and the learner, packed or not."""
LOOSE = 0.5
"""Largest mean gap for an engine that does not claim to be exact (other kernels, lower precision)."""
BLIND = 1e-5
"""A log-prob that moves by less than this when the picture's colours are inverted did not see it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Largest log-prob gaps seen: engine against learner, packed against single rows, and by showing other pictures
    (None: no sample has any)."""

    engine: float
    packed: float
    swapped: float | None

    def __str__(self) -> str:
        pictures = (
            "no sample has pictures"
            if self.swapped is None
            else f"other pictures change them by {self.swapped:.2g}"
        )
        return (
            f"probe: log-probs of engine and learner differ by at most {self.engine:.1e}, packed and single rows by "
            f"{self.packed:.1e}; {pictures}"
        )


def probe(family: Family, generator: Generator, samples: Sequence[Sample], demand: Demand) -> Probe:
    """Runs the three checks; raises ParityError saying which failed and by how much."""
    family.begin_step(samples)
    episodes = [e for row in generator.generate(samples, demand) for e in row]
    trajectories = [e.trajectory for e in episodes if len(e.trajectory.decisions)]
    if not trajectories:
        raise ParityError("no rollout of the probe has a single decision: nothing can be compared")
    with torch.no_grad():
        batch = family.pack(trajectories)
        together = family.evaluate(batch).logp
        alone = [family.evaluate(family.pack([t])).logp for t in trajectories]
    live = batch.sampled
    gaps = (together - batch.logp_behavior).abs()[live]
    engine = float(gaps.max() if generator.exact else gaps.mean())
    spread = (together - torch.cat(alone)).abs()[live]
    packed = float(spread.max() if generator.exact else spread.mean())
    limit = EXACT if generator.exact else LOOSE
    if not engine <= limit:
        raise ParityError(
            f"engine and learner disagree by {engine:.2g} in log-prob on the same tokens and pictures (limit {limit:g}): "
            "ratios would be biased. Check that both load the same weights, processor and sampling rule"
        )
    if not packed <= limit:
        raise ParityError(
            f"packed rows differ from single rows by {packed:.2g} in log-prob (limit {limit:g}); set policy.layout: padded"
        )
    swapped = _swapped(family, samples, trajectories, alone)
    if swapped is not None and not swapped > BLIND:
        raise ParityError(
            "other pictures change no log-prob: the policy does not see its pictures. Check the processor, the chat "
            "template and that the prompts contain the pictures"
        )
    return Probe(engine, packed, swapped)


def _swapped(
    family: Family, samples: Sequence[Sample], trajectories: Sequence[Trajectory], alone: Sequence[Tensor]
) -> float | None:
    """Largest change of a log-prob when a rollout is shown its prompt's pictures with inverted colours; None without
    pictures. Pictures of the same size take the same tokens, so nothing else changes."""
    inverted = {s.id: tuple(map(_inverted, s.media)) for s in samples if s.media}
    for sample in samples:
        if sample.media:  # makes the new pictures known
            other = {"id": f"{sample.id} (inverted)", "media": inverted[sample.id]}
            family.check(sample.model_copy(update=other))
    largest: float | None = None
    for trajectory, before in zip(trajectories, alone, strict=True):
        if trajectory.sample not in inverted:
            continue
        shown = tuple(m.sha256 for m in inverted[trajectory.sample])
        media = (*shown, *trajectory.payload.media[len(shown) :])
        seen = trajectory.model_copy(
            update={"payload": trajectory.payload.model_copy(update={"media": media})}
        )
        with torch.no_grad():
            after = family.evaluate(family.pack([seen])).logp
        largest = max(largest or 0.0, float((after - before).abs().max()))
    return largest


def _inverted(media: Media) -> Media:
    return Media.from_image(ImageOps.invert(media.image()))
