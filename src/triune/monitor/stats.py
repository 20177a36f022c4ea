"""Paired statistics: how much better is the same policy, or another one, on the very same samples?

Two evaluations of the same samples share each sample's difficulty, so their difference is much less noisy than
either mean. Intervals are percentile bootstraps over samples; the mean over tasks resamples within each task
(stratified), so that it says how well these tasks are measured, and weighs a task by 1, not by its size.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

RESAMPLES = 10_000
Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""

Covers = Literal["samples", "seeds and samples"]
_CHUNK = 500  # resamples drawn at once: bounds the memory to 500 x samples


@dataclass(frozen=True, slots=True)
class Score:
    """One sample's result in one evaluation: a rollout's, or one of several that are averaged first."""

    sample: str
    source: str
    task: str
    value: float


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean before and after and the difference, with its 95% interval, over `n` samples present in both.

    The interval is None for fewer than two samples. `unpaired` counts samples that only one side has (an abstention
    on the other): they are left out of everything. `covers` says what the interval allows for: other samples of the same
    kind alone, or other trainings by the same recipes too.
    """

    before: float
    after: float
    gain: float
    ci95: tuple[float, float] | None
    n: int
    unpaired: int = 0
    covers: Covers = "samples"


@dataclass(frozen=True, slots=True)
class Gains:
    """The gain of every task and source, and the mean over tasks (each task counts once)."""

    tasks: Mapping[str, Gain]
    sources: Mapping[str, Gain]
    mean: Gain


def bootstrap(
    strata: Sequence[F64], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """The 95% percentile interval of the mean over strata of the stratum means, resampling within each stratum.

    `strata`: one f64[n] of paired differences each. Deterministic for a seed. None if a stratum has fewer than two
    values: there is nothing to resample.
    """
    if not strata or min(len(values) for values in strata) < 2:
        return None
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for values in strata:
        for start in range(0, resamples, _CHUNK):
            picks = rng.integers(len(values), size=(min(_CHUNK, resamples - start), len(values)))
            means[start : start + _CHUNK] += values[picks].mean(axis=1) / len(strata)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def wilson(p: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share `p` of `n` (Wilson 1927, Eq. 3)."""
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return min(max(0.0, centre - half), p), max(min(1.0, centre + half), p)


def paired_gains(before: Iterable[Score], after: Iterable[Score], *, seed: int = 0) -> Gains:
    """Compares two evaluations of the same samples; several scores of one sample count as their mean.

    Raises ValueError if no sample is in both.
    """
    first, second = _by_sample(before), _by_sample(after)
    pairs = {key: (value, second[key]) for key, value in first.items() if key in second}
    if not pairs:
        raise ValueError("the two evaluations have no sample in common; a paired gain needs the same samples")
    unpaired = [key for key in (*first, *second) if key not in pairs]
    tasks = _split(pairs, lambda key: key.task)

    def gains(label: Callable[[_Key], str]) -> dict[str, Gain]:
        missing = Counter(label(key) for key in unpaired)
        return {
            name: _gain([values], missing[name], name_seed(name, seed))
            for name, values in _split(pairs, label).items()
        }

    return Gains(
        tasks=gains(lambda key: key.task),
        sources=gains(lambda key: key.source),
        mean=_gain(list(tasks.values()), len(unpaired), seed),
    )


def name_seed(name: str, seed: int) -> int:
    """A seed of its own for each name, so that adding a source leaves the other intervals as they were."""
    return zlib.crc32(f"{seed}/{name}".encode())


@dataclass(frozen=True, slots=True, order=True)
class _Key:
    task: str
    source: str
    sample: str


def _by_sample(scores: Iterable[Score]) -> dict[_Key, float]:
    seen: dict[_Key, list[float]] = defaultdict(list)
    for score in scores:
        seen[_Key(score.task, score.source, score.sample)].append(score.value)
    # Sorted, so that the interval does not depend on the order in which rollouts finished.
    return {key: float(np.mean(values)) for key, values in sorted(seen.items())}


def _split(pairs: Mapping[_Key, tuple[float, float]], label: Callable[[_Key], str]) -> dict[str, F64]:
    """The pairs (before, after) under each label, f64[n, 2]."""
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key, pair in pairs.items():
        groups[label(key)].append(pair)
    return {name: np.array(groups[name]) for name in sorted(groups)}


def _gain(strata: Sequence[F64], unpaired: int, seed: int) -> Gain:
    before, after = np.mean([values.mean(axis=0) for values in strata], axis=0).tolist()
    return Gain(
        before=before,
        after=after,
        gain=after - before,
        ci95=bootstrap([values[:, 1] - values[:, 0] for values in strata], seed=seed),
        n=sum(len(values) for values in strata),
        unpaired=unpaired,
    )
