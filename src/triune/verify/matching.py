"""Set matching of predicted and reference boxes, and the measures that follow from it.

Everything works on `overlap` f64[n, m]: the IoU of n predictions in the order of emission with m references, with 0
where labels differ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from triune.verify.geometry import F64

COCO_THRESHOLDS = np.linspace(0.5, 0.95, 10)
VTRIUNE_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
"""What V-Triune's reward server averages over where no threshold is set."""
LOGGED_THRESHOLDS = (50, 75, 95, 99)


class Matches(NamedTuple):
    """Pairs (prediction, reference) and their IoU; with n and m, all that a set measure needs."""

    pairs: tuple[tuple[int, int], ...]
    total_iou: float
    num_pred: int
    num_ref: int

    def precision(self) -> float:
        return self._share(len(self.pairs), self.num_pred)

    def recall(self) -> float:
        return self._share(len(self.pairs), self.num_ref)

    def f1(self) -> float:
        return self._share(2 * len(self.pairs), self.num_pred + self.num_ref)

    def mean_iou(self) -> float:
        """Sum of matched IoU over the number of references."""
        return self._share(self.total_iou, self.num_ref)

    def completeness(self) -> float:
        """1 - (share of references missed + share of predictions wasted) / 2."""
        return (self.recall() + self.precision()) / 2

    def _share(self, part: float, whole: int) -> float:
        if self.num_pred == 0 and self.num_ref == 0:
            return 1.0  # nothing was there and nothing was claimed
        return part / whole if whole else 0.0


def match_hungarian(overlap: F64, threshold: float) -> Matches:
    """MATCH-H: the assignment that maximises the sum of IoU over pairs with IoU >= threshold.

    Of several such assignments one with most pairs is taken, so that the order of the boxes never matters.
    """
    allowed = (overlap >= threshold) & (overlap > 0)
    rows, columns = linear_sum_assignment(np.where(allowed, overlap + 1e-9, 0.0), maximize=True)
    pairs = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if allowed[i, j]]
    return _matches(overlap, pairs)


def match_greedy(overlap: F64, threshold: float) -> Matches:
    """MATCH-G: pairs by IoU from the best down, each taken when both ends are free; ties by (prediction, reference)."""
    candidates = np.argwhere((overlap >= threshold) & (overlap > 0))  # in (prediction, reference) order
    order = np.argsort(-overlap[tuple(candidates.T)], kind="stable")
    free_pred, free_ref = set(range(overlap.shape[0])), set(range(overlap.shape[1]))
    pairs = []
    for i, j in candidates[order].tolist():
        if i in free_pred and j in free_ref:
            free_pred.remove(i)
            free_ref.remove(j)
            pairs.append((i, j))
    return _matches(overlap, pairs)


def match_iou_first(overlap: F64, same: NDArray[np.bool_], threshold: float) -> Matches:
    """V-Triune's second matcher as described: pairs by IoU whatever their labels, and the labels compared afterwards.

    `overlap` is not yet masked by `same` bool[n, m]. A pair of different labels uses both boxes up and counts for
    nothing (in the released code it still counts as found).
    """
    found = match_greedy(overlap, threshold)
    return _matches(overlap, [(i, j) for i, j in found.pairs if same[i, j]])


def _matches(overlap: F64, pairs: list[tuple[int, int]]) -> Matches:
    return Matches(tuple(pairs), float(sum(overlap[i, j] for i, j in pairs)), *overlap.shape)


def ranked_ap(overlap: F64, thresholds: F64) -> F64:
    """Average precision f64[T] with the order of emission declared as the ranking.

    One ranking over all labels: a prediction whose label is not in the reference is a false positive. Each prediction
    in turn takes its best free reference. The area under the interpolated precision-recall curve is exact.
    """
    n, m = overlap.shape
    if n == 0 or m == 0:
        return np.full(len(thresholds), float(n == m))
    free = np.ones((len(thresholds), m), dtype=bool)
    hit = np.zeros((len(thresholds), n), dtype=bool)
    every = np.arange(len(thresholds))
    for i in range(n):
        candidate = np.where(free, overlap[i], 0.0)
        best = candidate.argmax(axis=1)
        gain = candidate[every, best]
        hit[:, i] = (gain >= thresholds) & (gain > 0)
        free[every[hit[:, i]], best[hit[:, i]]] = False
    precision = hit.cumsum(axis=1) / np.arange(1, n + 1)
    interpolated = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return np.asarray((interpolated * hit).sum(axis=1) / m)


def mean_f1(overlap: F64) -> float:
    """Mean F1 over the IoU thresholds .5:.05:.95; needs no ranking."""
    return float(np.mean([match_hungarian(overlap, threshold).f1() for threshold in COCO_THRESHOLDS]))


def measures(overlap: F64) -> dict[str, float]:
    """What is logged for every box verdict, whatever the reward's form and schedule.

    `iou` is the mean over matched pairs at any overlap; `iou@T` the matched IoU over the number of references.
    """
    n, m = overlap.shape
    matched = match_hungarian(overlap, 0.0)
    found = {
        "num_pred": float(n),
        "num_ref": float(m),
        "iou": matched.total_iou / len(matched.pairs) if matched.pairs else float(n == m == 0),
        "map": float(ranked_ap(overlap, COCO_THRESHOLDS).mean()),
    }
    for percent in LOGGED_THRESHOLDS:
        at = match_hungarian(overlap, percent / 100)
        found |= {f"iou@{percent}": at.mean_iou(), f"precision@{percent}": at.precision()}
        found |= {f"recall@{percent}": at.recall(), f"f1@{percent}": at.f1()}
    return found
