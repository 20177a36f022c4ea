"""The order of samples is a pure function of sources, weights, seed and step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from triune.core.errors import RecipeError
from triune.data.mixture import CYCLE, Mixture


def ids(mixture: Mixture, step: int) -> list[str]:
    return [sample.id for sample in mixture.batch(step)]


def test_a_fresh_mixture_continues_where_another_stopped(numbers: Any) -> None:
    sources = [(numbers("a", 7), 1.0), (numbers("b", None), 2.0)]
    straight = [ids(Mixture(sources, 3, 5), step) for step in range(1, 21)]
    one = Mixture(sources, 3, 5)
    backwards = [ids(one, step) for step in range(20, 0, -1)]
    assert straight == backwards[::-1]


def test_seed_changes_the_order(numbers: Any) -> None:
    sources = [(numbers("a", 50), 1.0), (numbers("b", 50), 1.0)]
    assert ids(Mixture(sources, 0, 20), 1) != ids(Mixture(sources, 1, 20), 1)


def test_no_sample_repeats_within_an_epoch_and_epochs_differ(numbers: Any) -> None:
    mixture = Mixture([(numbers("a", 30), 1.0)], 0, 30)
    epochs = [ids(mixture, step) for step in range(1, 5)]
    assert all(len(set(epoch)) == 30 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_an_epoch_may_end_inside_a_batch(numbers: Any) -> None:
    mixture = Mixture([(numbers("a", 7), 1.0)], 0, 5)
    drawn = [id.split("~")[0] for step in range(1, 8) for id in ids(mixture, step)]
    assert all(len(set(drawn[start : start + 7])) == 7 for start in range(0, 35, 7))


def test_endless_sources_never_repeat(numbers: Any) -> None:
    mixture = Mixture([(numbers("a", None), 1.0), (numbers("b", None), 3.0)], 0, 64)
    drawn = [id for step in range(1, 151) for id in ids(mixture, step)]
    assert len(set(drawn)) == len(drawn)
    for name in "ab":
        indices = [int(id.split("/")[1]) for id in drawn if id.startswith(name)]
        assert indices == list(range(len(indices)))


@pytest.mark.parametrize("weights", [(1, 1, 2), (0.7, 0.2, 0.1), (1e-9, 1, 1), (5,)])
def test_weights_hold_over_a_cycle_and_roughly_in_every_batch(
    numbers: Any, weights: tuple[float, ...]
) -> None:
    mixture = Mixture([(numbers(str(i), None), w) for i, w in enumerate(weights)], 0, 1)
    owners = [mixture.locate(n)[0] for n in range(2 * CYCLE)]
    for cycle in (owners[:CYCLE], owners[CYCLE:]):
        counts = Counter(cycle)
        for source, weight in enumerate(weights):
            assert abs(counts[source] / CYCLE - weight / sum(weights)) <= 2 / CYCLE
            assert counts[source] >= 1
    for start in range(0, CYCLE, 32):
        batch = Counter(owners[start : start + 32])
        for source, weight in enumerate(weights):
            assert abs(batch[source] - 32 * weight / sum(weights)) <= 3


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_weights_must_be_positive(numbers: Any, weight: float) -> None:
    with pytest.raises(RecipeError, match="positive"):
        Mixture([(numbers("a", 1), weight)], 0)


def test_steps_count_from_one(numbers: Any) -> None:
    with pytest.raises(ValueError, match="count from 1"):
        Mixture([(numbers("a", 1), 1.0)], 0).batch(0)


def test_epoch_size(numbers: Any) -> None:
    assert Mixture([(numbers("a", 3), 1.0), (numbers("b", 4), 1.0)], 0).samples_per_epoch == 7
    assert Mixture([(numbers("a", 3), 1.0), (numbers("b", None), 1.0)], 0).samples_per_epoch is None


def test_a_sample_drawn_twice_in_one_step_is_two_prompts(numbers: Any) -> None:
    mixture = Mixture([(numbers("a", 3), 1.0)], 0, 7)
    drawn = mixture.batch(1)
    assert len({sample.id for sample in drawn}) == 7, (
        "or both draws would share a group and their rollouts' seeds"
    )
    assert len({sample.id.split("~")[0] for sample in drawn}) == 3
