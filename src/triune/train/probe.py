"""The start-up probe: a run refuses to start when engine and learner disagree, or when the policy is blind.

On a few real samples with their pictures: (1) the learner's log-probs of freshly sampled rollouts equal the engine's;
(2) the packed layout equals rollouts laid out one by one; (3) noise in place of any one picture gives other log-probs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from triune.core.errors import ParityError
from triune.core.sample import Media, Sample
from triune.core.trajectory import Trajectory
from triune.policy.family import Family
from triune.rollout.generator import Demand, Episode, Generator

EXACT = 1e-4
"""Largest gap of a single log-prob in float32 between an exact engine and the learner, packed or not."""
LOOSE = 0.5
"""Largest mean gap for an engine that does not claim to be exact (other kernels, lower precision). One that only lags is
measured before the first update, where it must agree."""
BLIND = 1e-5
"""Log-probs that move by less than this when noise takes a picture's place did not see it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Log-prob gaps: engine against learner, and packed against single rows; the largest ones, or where arithmetic differs
    (`rounded`) the mean; `engine` is None where nothing was drawn. `swapped` is the change by the picture that changes them
    least when noise takes its place (None: no sample has any)."""

    engine: float | None
    packed: float
    swapped: float | None
    rounded: bool = False

    def __str__(self) -> str:
        pictures = (
            "no sample has pictures"
            if self.swapped is None
            else f"without any one picture they change by at least {self.swapped:.2g}"
        )
        much = "on average" if self.rounded else "at most"
        engine = (
            "no answer was drawn" if self.engine is None
            else f"log-probs of engine and learner differ by {much} {self.engine:.1e}"
        )  # fmt: skip
        return f"probe: {engine}, packed and single rows by {self.packed:.1e}; {pictures}"


def probe(
    family: Family, generator: Generator, samples: Sequence[Sample], demand: Demand
) -> tuple[Probe, list[list[Episode]]]:
    """Runs the three checks; returns what was seen and the rollouts. Raises ParityError saying which failed and by how
    much."""
    family.begin_step(samples)
    groups = generator.generate(samples, demand)
    trajectories = [e.trajectory for group in groups for e in group if len(e.trajectory.decisions)]
    if not trajectories:
        raise ParityError("no rollout of the probe has a single decision: nothing can be compared")
    with torch.no_grad():
        batch = family.pack(trajectories)
        together = family.evaluate(batch).logp
        alone = [family.evaluate(family.pack([t])).logp for t in trajectories]
    live = batch.sampled
    placed = not bool(live.any())  # recorded answers alone: there is no engine to compare with
    sharp = generator.exact or bool(getattr(generator, "same_arithmetic", False))
    engine, limit = (None, 0.0) if placed else _gap(together - batch.logp_behavior, live, sharp)
    if engine is not None and not engine <= limit:
        raise ParityError(
            f"engine and learner disagree by {engine:.2g} in log-prob on the same tokens and pictures (limit {limit:g}): "
            "ratios would be biased. Check that both load the same weights, processor and sampling rule"
        )
    # The learner's own affair: an engine in another precision does not excuse it.
    live = together.isfinite() if placed else live
    packed, limit = _gap(together - torch.cat(alone), live, sharp or bool(getattr(family, "exact", False)))
    if not packed <= limit:
        raise ParityError(
            f"packed rows differ from single rows by {packed:.2g} in log-prob (limit {limit:g}); set policy.layout: padded"
        )
    return Probe(engine, packed, _swapped(family, samples, trajectories, alone), not sharp), groups


def _gap(difference: Tensor, live: Tensor, sharp: bool) -> tuple[float, float]:
    """The largest absolute difference over the live decisions, or the mean one, and its limit."""
    found = difference.abs()[live]
    return (float(found.max()), EXACT) if sharp else (float(found.mean()), LOOSE)


def _swapped(
    family: Family, samples: Sequence[Sample], trajectories: Sequence[Trajectory], alone: Sequence[Tensor]
) -> float | None:
    """The least change of log-probs by noise in place of one picture of a prompt, over all pictures of the samples; None
    without pictures. Raises ParityError naming a picture that nothing depends on.

    Noise of the same size takes the same tokens, so nothing else changes. A sample's longest rollout is looked at.
    """
    noise = {s.id: tuple(map(_noise, s.media)) for s in samples if s.media}
    for sample in samples:
        if sample.media:  # makes the new pictures known
            family.check(sample.model_copy(update={"id": f"{sample.id} (noise)", "media": noise[sample.id]}))
    longest: dict[str, int] = {}
    for index, trajectory in enumerate(trajectories):
        best = longest.setdefault(trajectory.sample, index)
        if len(trajectory.decisions) > len(trajectories[best].decisions):
            longest[trajectory.sample] = index
    least: float | None = None
    for name, others in noise.items():
        if name not in longest:
            continue
        trajectory, before = trajectories[longest[name]], alone[longest[name]]
        for number, other in enumerate(others):
            media = list(trajectory.payload.media)
            media[number] = other.sha256
            payload = trajectory.payload.model_copy(update={"media": tuple(media)})
            seen = trajectory.model_copy(update={"payload": payload})
            with torch.no_grad():
                change = float((family.evaluate(family.pack([seen])).logp - before).abs().max())
            if not change > BLIND:
                raise ParityError(
                    f"sample {name!r}: noise in place of picture {number} changes no log-prob: the policy does not see it. "
                    "Check the processor, the chat template and that the prompt contains the picture"
                )
            least = min(change, least if least is not None else change)
    return least


def _noise(media: Media) -> Media:
    """Coloured noise of the picture's size, different for each picture."""
    width, height = media.size
    pixels = np.random.default_rng(int(media.sha256[:8], 16)).integers(0, 256, (height, width, 3), np.uint8)
    return Media.from_image(Image.fromarray(pixels))
