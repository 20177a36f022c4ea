"""Random numbers by counter, and choosing by inversion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triune.core.trajectory import SamplingRule
from triune.rollout.engine import derive_seed, uniforms
from triune.rollout.native import choose

SEEDS = np.asarray([derive_seed("run", i) for i in range(4000)], np.uint64)


@pytest.mark.parametrize("position", [0, 1, 2, 777])
def test_uniforms_are_uniform(position: int) -> None:
    drawn = uniforms(SEEDS, position)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=40, range=(0, 1))
    chi2 = float(((counts - 100.0) ** 2 / 100.0).sum())
    assert chi2 < 85  # 39 degrees of freedom: above 85 once in 30,000


def test_uniforms_of_neighbours_are_unrelated() -> None:
    table = np.stack([uniforms(SEEDS, position) for position in range(30)])
    consecutive = np.stack([uniforms(np.arange(4000, dtype=np.uint64), position) for position in range(30)])
    for drawn in (table, consecutive):
        between_tokens = np.abs(np.corrcoef(drawn)[np.triu_indices(30, 1)])
        between_seeds = np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]
        assert between_tokens.max() < 0.08  # five standard deviations of 435 pairs over 4,000 numbers
        assert abs(between_seeds) < 0.015


def test_uniforms_do_not_depend_on_company() -> None:
    alone = [float(uniforms(SEEDS[i : i + 1], 5)[0]) for i in range(20)]
    assert uniforms(SEEDS[:20], 5).tolist() == alone
    assert len(set(uniforms(SEEDS, 5).tolist())) == len(SEEDS)


def test_seeds_depend_on_every_part() -> None:
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)
    assert (
        len({derive_seed(0, "a", 1), derive_seed(0, "a", 2), derive_seed(0, "b", 1), derive_seed(0, "a1")})
        == 4
    )
    assert derive_seed("ab", "c") != derive_seed("a", "bc")
    assert 0 <= derive_seed("x") < 1 << 62


def test_inversion_at_the_edges() -> None:
    rule = SamplingRule()
    logp = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).log()
    for uniform, expected in ((0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)):
        assert choose(logp, np.asarray([uniform]), rule).tolist() == [expected]
    rounded = torch.full((1, 1000), -np.log(999)).float()
    rounded[0, -1] = -torch.inf
    assert choose(rounded, np.asarray([1 - 2**-53]), rule).tolist() == [998]
    assert choose(logp, np.asarray([0.9]), SamplingRule(temperature=0)).tolist() == [1]
