"""What several seeds say together: intervals that cover other trainings and not only other samples.

A run is one training among those that its recipe might have given. An interval over samples alone says how far two
*trained policies* are apart; whether the *recipe* is better needs the spread between seeds as well. With the handful of seeds
that anyone trains, resampling them understates that spread ((k - 1) / k of the variance, and no heavy tail), so the intervals
here are Student's, with degrees of freedom after Welch and Satterthwaite (Satterthwaite 1946, Eq. 17).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from triune.monitor.stats import F64, Covers, bootstrap

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """Runs that answered the same n samples. `first` f64[k, n] and `second` f64[l, n] hold a value per run and sample, `strata`
    i64[n] the stratum (task) of each sample. `matched`: row s of both is one run, before and after."""

    first: F64
    second: F64
    strata: I64
    matched: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """`second` less `first`: means over strata of stratum means, averaged over runs, and the 95 % interval of `gain`; None
    where a stratum has one sample, or there is nothing to tell the spread from."""

    first: float
    second: float
    gain: float
    ci95: tuple[float, float] | None
    covers: Covers


def effect(blocks: Sequence[Block], *, seed: int = 0) -> Effect:
    """The difference over blocks, each of which counts once.

    One run on either side: the percentile bootstrap over samples (`stats.bootstrap`), which covers samples. Several blocks
    (each seed has samples of its own): Student's interval over the blocks' differences, which covers both; two or three
    differences can agree by chance, so their variance counts as no less than what the samples alone give (as in Knapp and
    Hartung's intervals modified by Röver et al. 2015). One block with several runs on each side: the variance is that of the
    samples plus that between the runs of each side, and covers both; with a single run on one side the seeds' share is
    unknown there, and the interval covers samples, for these runs.
    """
    means = [
        tuple(_weighted(side, block.strata).mean() for side in (block.first, block.second))
        for block in blocks
    ]
    first, second = (float(np.mean(side)) for side in zip(*means, strict=True))
    gain = second - first
    if len(blocks) > 1:
        differences = np.array([after - before for before, after in means])
        between = differences.var(ddof=1) / len(blocks)
        variance = max(between, sum(map(_of_samples, blocks)) / len(blocks) ** 2)
        return Effect(first, second, gain, interval(gain, [(variance, len(blocks) - 1)]), "seeds and samples")
    (block,) = blocks
    strata = _apart(block)
    if min(len(block.first), len(block.second)) < 2:
        return Effect(first, second, gain, bootstrap(strata, seed=seed), "samples")
    if min(map(len, strata)) < 2:
        return Effect(first, second, gain, None, "seeds and samples")
    parts = [(values.var(ddof=1) / len(values) / len(strata) ** 2, len(values) - 1) for values in strata]
    sides = [block.second - block.first] if block.matched else [block.first, block.second]
    for side in sides:
        parts.append((_weighted(side, block.strata).var(ddof=1) / len(side), len(side) - 1))
    return Effect(first, second, gain, interval(gain, parts), "seeds and samples")


def interval(estimate: float, parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Student's 95 % interval of an estimate whose variance is the sum of `parts` (variance, degrees of freedom)."""
    variance = float(sum(part for part, _ in parts))
    if variance <= 0.0:
        return estimate, estimate
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(variance)
    return estimate - half, estimate + half


def _weighted(values: F64, strata: I64) -> F64:
    """Per run, f64[k]: the mean over strata of its stratum means."""
    return np.asarray(np.mean([values[:, strata == one].mean(axis=1) for one in np.unique(strata)], axis=0))


def _apart(block: Block) -> list[F64]:
    """Per stratum: the difference of each sample, averaged over runs."""
    apart = block.second.mean(axis=0) - block.first.mean(axis=0)
    return [apart[block.strata == one] for one in np.unique(block.strata)]


def _of_samples(block: Block) -> float:
    """The variance of the block's difference that its samples alone give it; what a stratum of one sample adds is not known."""
    strata = _apart(block)
    return sum(float(v.var(ddof=1)) / len(v) for v in strata if len(v) > 1) / len(strata) ** 2
