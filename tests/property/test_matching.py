from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.verify.matching import (
    COCO_THRESHOLDS,
    match_greedy,
    match_hungarian,
    mean_f1,
    measures,
    ranked_ap,
)

# Few distinct values, so that ties and exact hits of a threshold happen often.
OVERLAP = st.tuples(st.integers(0, 4), st.integers(0, 4)).flatmap(
    lambda shape: st.lists(
        st.sampled_from([0.0, 0.0, 0.3, 0.5, 0.5, 0.7, 0.75, 0.99, 1.0]),
        min_size=shape[0] * shape[1],
        max_size=shape[0] * shape[1],
    ).map(lambda values: np.array(values).reshape(shape))
)
THRESHOLD = st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.99])


def best_total(overlap, threshold):
    """By trying every assignment."""
    gain = np.where(overlap >= threshold, overlap, 0.0)
    if gain.shape[0] > gain.shape[1]:
        gain = gain.T
    return max(
        sum(gain[i, j] for i, j in enumerate(p)) for p in permutations(range(gain.shape[1]), gain.shape[0])
    )


@given(OVERLAP, THRESHOLD)
def test_hungarian_is_optimal(overlap, threshold):
    matches = match_hungarian(overlap, threshold)
    assert matches.total_iou == pytest.approx(best_total(overlap, threshold))


@given(OVERLAP, THRESHOLD)
def test_pairs_are_legal(overlap, threshold):
    for matches in (match_hungarian(overlap, threshold), match_greedy(overlap, threshold)):
        for side in zip(*matches.pairs, strict=True):
            assert len(set(side)) == len(side)
        assert all(overlap[i, j] >= threshold and overlap[i, j] > 0 for i, j in matches.pairs)


@given(OVERLAP, THRESHOLD)
def test_greedy_takes_a_pair_as_long_as_one_is_free(overlap, threshold):
    matches = match_greedy(overlap, threshold)
    rows, columns = {i for i, _ in matches.pairs}, {j for _, j in matches.pairs}
    free = [
        (i, j)
        for i, j in np.argwhere((overlap >= threshold) & (overlap > 0))
        if i not in rows and j not in columns
    ]
    assert not free
    if overlap.size and overlap.max() >= max(threshold, 1e-9):
        assert max(overlap[i, j] for i, j in matches.pairs) == overlap.max()


@given(OVERLAP, THRESHOLD, st.randoms(use_true_random=False))
def test_order_does_not_matter(overlap, threshold, random):
    n, m = overlap.shape
    shuffled = overlap[random.sample(range(n), n)][:, random.sample(range(m), m)]
    a, b = match_hungarian(overlap, threshold), match_hungarian(shuffled, threshold)
    assert a.total_iou == pytest.approx(b.total_iou)
    assert len(a.pairs) == len(b.pairs)
    assert mean_f1(overlap) == pytest.approx(mean_f1(shuffled))


@given(OVERLAP, THRESHOLD, st.integers(0, 4))
def test_junk_never_raises_a_score(overlap, threshold, position):
    """A box that overlaps nothing (or has the wrong label), wherever it is put in the list."""
    at = min(position, overlap.shape[0])
    junk = np.insert(overlap, at, 0.0, axis=0)
    for match in (match_hungarian, match_greedy):
        assert match(junk, threshold).f1() <= match(overlap, threshold).f1()
    assert mean_f1(junk) <= mean_f1(overlap) + 1e-12
    assert (ranked_ap(junk, COCO_THRESHOLDS) <= ranked_ap(overlap, COCO_THRESHOLDS) + 1e-12).all()


@given(OVERLAP)
def test_a_correct_box_never_lowers_a_score(overlap):
    """A new reference with a perfect prediction of its own, put last."""
    n, m = overlap.shape
    more = np.zeros((n + 1, m + 1))
    more[:n, :m] = overlap
    more[n, m] = 1.0
    assert match_hungarian(more, 0.5).f1() >= match_hungarian(overlap, 0.5).f1() - 1e-12


@settings(max_examples=50)
@given(OVERLAP)
def test_measures_are_shares(overlap):
    found = measures(overlap)
    assert (found.pop("num_pred"), found.pop("num_ref")) == overlap.shape
    assert all(0 <= value <= 1 + 1e-12 for value in found.values())
    for name in ("iou", "precision", "recall", "f1"):
        rising = [found[f"{name}@{percent}"] for percent in (99, 95, 75, 50)]
        assert name in ("precision", "f1", "recall", "iou")
        assert rising[0] <= rising[-1] + 1e-12


def test_average_precision_by_hand():
    # Ranks: hit, miss, hit, of 3 references: interpolated precision 1 at recall 1/3, 2/3 at recall 2/3.
    overlap = np.array([[1.0, 0, 0], [0, 0, 0], [0, 1.0, 0]])
    assert ranked_ap(overlap, np.array([0.5]))[0] == pytest.approx((1 + 2 / 3) / 3)
    # The same answer with the miss said first: ranking is the order of emission.
    assert ranked_ap(overlap[[1, 0, 2]], np.array([0.5]))[0] == pytest.approx((2 / 3 + 2 / 3) / 3)
    # A second prediction of a reference that is taken is a false positive.
    twice = np.array([[0.9], [1.0]])
    assert ranked_ap(twice, np.array([0.5, 0.95])).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(("n", "m", "expected"), [(0, 0, 1.0), (2, 0, 0.0), (0, 2, 0.0)])
def test_empty_sets(n, m, expected):
    overlap = np.zeros((n, m))
    for match in (match_hungarian, match_greedy):
        matches = match(overlap, 0.5)
        shares = [
            matches.f1(),
            matches.precision(),
            matches.recall(),
            matches.mean_iou(),
            matches.completeness(),
        ]
        assert shares == [expected] * 5
    assert ranked_ap(overlap, COCO_THRESHOLDS).tolist() == [expected] * 10
