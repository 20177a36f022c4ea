"""Every registered policy term, found without being told: autograd against the gradient weight that it declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from triune.algo.objective import Objective
from triune.algo.options import TERMS
from triune.algo.terms.policy import PolicyTerm
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.testing.table import trajectory

torch.set_num_threads(1)
CASES = [
    (name, example)
    for name in TERMS
    if issubclass(TERMS[name], PolicyTerm)
    for example in TERMS[name].examples
]
EVERY = pytest.mark.parametrize(("kind", "example"), CASES, ids=lambda value: str(value))
MODES = ["token-mean", "group-token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "sum-const"]


@dataclass
class Made:
    """A batch in float64 with one advantage per row, the log-probs of three policies, and some decisions placed."""

    batch: Batch
    credit: Credit
    logp: Tensor
    old: Tensor

    @property
    def views(self) -> dict[str, Evaluated]:
        return {"old": Evaluated(self.old)}


def made(rows: Sequence[Mapping[str, Any]]) -> Made:
    """Each row: `advantage`, and per decision `logs` (current against old), `gaps` (old against engine) and `forced`."""
    found = [
        trajectory([1] * len(row["logs"]), id=f"{i}", group=f"{i // 3}", forced=row["forced"])
        for i, row in enumerate(rows)
    ]
    batch = Batch.of(found, None)
    logs, gaps = (
        torch.tensor([x for row in rows for x in row[key]], dtype=torch.float64) for key in ("logs", "gaps")
    )
    old = -1.5 - torch.arange(len(logs), dtype=torch.float64) % 7 / 10
    batch.logp_behavior = old - gaps
    ones = torch.ones(len(rows), dtype=torch.bool)
    advantage = torch.tensor([row["advantage"] for row in rows], dtype=torch.float64)[batch.trajectory]
    return Made(batch, Credit(advantage, ones, ones, [""] * len(rows), ~ones[:1]), old + logs, old)


@st.composite
def batches(draw: st.DrawFn) -> Made:
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(0, 4))

        def values(bound: float, size: int = size) -> st.SearchStrategy[list[float]]:
            return st.lists(st.floats(-bound, bound), min_size=size, max_size=size)

        rows.append(
            {
                "advantage": draw(st.one_of(st.just(0.0), st.floats(-3, 3))),
                "logs": draw(values(1.4)),
                "gaps": draw(values(0.5)),
                "forced": draw(st.lists(st.booleans(), min_size=size, max_size=size)),
            }
        )
    return made(rows)


def gradient(given: Made, term: Mapping[str, Any], **options: Any) -> Tensor:
    logp = given.logp.clone().requires_grad_()
    loss = Objective.of([term], **options).whole(given.batch, given.credit, Evaluated(logp), given.views)
    loss.total.backward()
    assert logp.grad is not None
    return logp.grad


@EVERY
@settings(max_examples=30, deadline=None)
@given(batches(), st.sampled_from(MODES))
def test_autograd_is_minus_weight_times_advantage(
    kind: str, example: Mapping[str, Any], batch: Made, mode: str
) -> None:
    options = {"aggregate": mode, "constant": 5.0}
    objective = Objective.of([{"kind": kind, **example}], **options)
    (term,) = objective.terms.values()
    nothing = Rewards(torch.zeros(len(batch.batch.trajectories)).double(), torch.zeros(0))
    (share,) = objective.shares(batch.batch, batch.credit, nothing).values()
    seen = replace(batch.batch, advantage=batch.credit.advantage, live=share.live, weight=share.weight)
    compared = term.compare(seen, Evaluated(batch.logp), batch.views)
    weight = torch.where(term.kept(compared), term.gradient_weight(compared), 0.0)
    expected = -share.weight * weight * batch.credit.advantage
    assert torch.allclose(gradient(batch, {"kind": kind, **example}, **options), expected, rtol=0, atol=1e-9)


@EVERY
def test_where_nothing_moved_the_gradient_is_minus_the_advantage(
    kind: str, example: Mapping[str, Any]
) -> None:
    """With one decision per row a product and a mean of the row are the decision's own."""
    still = made(
        [{"advantage": a, "logs": [0.0], "gaps": [0.0], "forced": [False]} for a in (1.3, -0.7, 0.0, -2.0)]
    )
    found = gradient(still, {"kind": kind, **example}, aggregate="sum-const", constant=1.0)
    assert torch.allclose(found, -still.credit.advantage, rtol=0, atol=1e-12)


@EVERY
def test_what_is_outside_the_loss_never_leaks(kind: str, example: Mapping[str, Any]) -> None:
    """NaN and -inf at placed decisions: loss and gradient are those of a batch without them."""
    row = {"advantage": -1.1, "logs": [0.3, -0.2, 0.1], "gaps": [0.1, 0.0, -0.1]}
    clean = made([{**row, "forced": [False, False, True]}])
    broken = made([{**row, "forced": [False, False, True]}])
    term = {"kind": kind, **example}
    expected = gradient(clean, term)
    for value in (float("nan"), float("-inf"), float("inf")):
        broken.logp[2] = broken.old[2] = broken.batch.logp_behavior[2] = broken.credit.advantage[2] = value
        found = gradient(broken, term)
        assert torch.equal(found, expected)
        assert found[2] == 0.0


@EVERY
def test_all_masked_is_zero_and_attached_to_the_graph(kind: str, example: Mapping[str, Any]) -> None:
    masked = made(
        [{"advantage": 1.0, "logs": [0.1, float("-inf")], "gaps": [0.0, 0.0], "forced": [True, True]}]
    )
    assert gradient(masked, {"kind": kind, **example}).tolist() == [0.0, 0.0]


@EVERY
@settings(max_examples=10, deadline=None)
@given(batches(), st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_padding_matters(
    kind: str, example: Mapping[str, Any], batch: Made, random: Any
) -> None:
    """Rows in another order, each with placed decisions after it."""
    rows = []
    for row in range(len(batch.batch.trajectories)):
        mine = batch.batch.trajectory == row
        pad = random.randint(0, 2)
        rows.append(
            {
                "at": torch.nonzero(mine)[:, 0].tolist(),
                "group": batch.batch.trajectories[row].group,
                "forced": [*(~batch.batch.sampled[mine]).tolist(), *[True] * pad],
                "pad": pad,
            }
        )
    expected = gradient(batch, {"kind": kind, **example})
    random.shuffle(rows)
    found = [
        trajectory([1] * len(r["forced"]), id=f"{i}", group=r["group"], forced=r["forced"])
        for i, r in enumerate(rows)
    ]
    at = [i for r in rows for i in (*r["at"], *[-1] * r["pad"])]

    def moved(values: Tensor) -> Tensor:
        return torch.cat([values, torch.full((1,), float("nan"), dtype=values.dtype)])[at]

    other = Batch.of(found, None)
    other.logp_behavior = moved(batch.batch.logp_behavior)
    ones = torch.ones(len(rows), dtype=torch.bool)
    credit = Credit(moved(batch.credit.advantage), ones, ones, [""] * len(rows), ~ones[:1])
    again = gradient(Made(other, credit, moved(batch.logp), moved(batch.old)), {"kind": kind, **example})
    for place, i in enumerate(at):
        assert float(again[place]) == pytest.approx(float(expected[i]) if i >= 0 else 0.0, abs=1e-12)
