"""Nash-MD settles in a game that goes round; self-play does not. The policy loss follows the tabular step."""

from __future__ import annotations

import pytest
import torch

from triune.algo.objective import Objective
from triune.algo.types import Credit, Evaluated
from triune.core.schedule import Progress
from triune.testing.games import exploitability, mixture, nash_md, self_play
from triune.testing.table import batch_of, trajectory

WINS = torch.tensor([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]], dtype=torch.float64)
REFERENCE = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
START = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
RATE, TIE = 0.1, 0.1


def test_the_last_policy_of_nash_md_settles_and_that_of_self_play_goes_round() -> None:
    tied = free = START
    ways = [0.0, 0.0]
    for step in range(6000):
        before = tied, free
        tied, free = nash_md(tied, WINS, REFERENCE, RATE, TIE), self_play(free, WINS, RATE)
        if step >= 4000:
            ways[0] += float((tied - before[0]).abs().sum())
            ways[1] += float((free - before[1]).abs().sum())
    assert exploitability(tied, WINS, REFERENCE, TIE) < 1e-4
    assert ways[0] < 1e-6
    assert ways[1] > 0.5
    assert exploitability(START, WINS, REFERENCE, TIE) > 0.1


def test_the_policy_loss_climbs_what_the_table_does() -> None:
    """In expectation over the policy's answers, its gradient is that of E P(y beats mixture) - beta KL(policy, reference)."""
    logits = START.log().requires_grad_()
    opponent = mixture(START, REFERENCE, 0.5)
    logp = torch.log_softmax(logits, 0)
    batch, judged = batch_of([trajectory([1], id=f"{i}", group=f"{i}") for i in range(3)], [0.0] * 3)
    objective = Objective.of([{"kind": "nash_md", "beta": TIE}])
    every = torch.ones(3, dtype=torch.bool)
    credit = Credit(torch.zeros(3), every, every, [""] * 3, every)
    (share,) = objective.shares(batch, credit, judged).values()
    share.weight = logp.detach().exp()
    batch.advantage, batch.reward = WINS @ opponent - 0.5, judged.total.float()
    views = {"reference": Evaluated(REFERENCE.log())}
    loss = objective(batch, Evaluated(logp), views, {"nash_md": share}, Progress(step=1, total_steps=1))
    loss.total.backward()
    found, logits.grad = logits.grad, None
    p = torch.softmax(logits, 0)
    (-(p @ (WINS @ opponent)) + TIE * (p * (p / REFERENCE).log()).sum()).backward()
    assert found is not None
    assert logits.grad is not None
    assert torch.allclose(found, logits.grad, atol=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_mixture_lies_between_its_ends(share: float) -> None:
    made = mixture(START, REFERENCE, share)
    expected = {0.0: START, 1.0: REFERENCE}.get(share, (START * REFERENCE).sqrt())
    assert torch.allclose(made, expected / expected.sum(), atol=1e-12)
