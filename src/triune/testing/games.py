"""Nash learning by mirror descent on a table: what the policy loss of Nash-MD approximates, exactly.

A game is P f64[n, n], how often answer i is preferred to answer j, with P + P^T = 1. Policies are f64[n].
"""

from __future__ import annotations

import torch
from torch import Tensor


def mixture(policy: Tensor, reference: Tensor, share: float) -> Tensor:
    """The geometric mixture policy^(1 - share) reference^share / Z (Munos et al. 2023, section 5)."""
    return torch.softmax((1 - share) * policy.log() + share * reference.log(), 0)


def nash_md(policy: Tensor, game: Tensor, reference: Tensor, rate: float, tie: float) -> Tensor:
    """One step: pi' proportional to pi_mu exp(rate P(. beats pi_mu)), pi_mu the mixture with share rate * tie (eq. 6)."""
    opponent = mixture(policy, reference, rate * tie)
    return torch.softmax(opponent.log() + rate * (game @ opponent), 0)


def self_play(policy: Tensor, game: Tensor, rate: float) -> Tensor:
    """One step of mirror descent against itself, without a reference."""
    return torch.softmax(policy.log() + rate * (game @ policy), 0)


def exploitability(policy: Tensor, game: Tensor, reference: Tensor, tie: float) -> float:
    """What a best response gains over the policy in the game P(a beats b) - tie KL(a, ref) + tie KL(b, ref); 0 at its Nash
    equilibrium. The best response is reference * exp(P(. beats policy) / tie) / Z."""
    won = game @ policy
    best = torch.softmax(reference.log() + won / tie, 0)

    def value(answer: Tensor) -> Tensor:
        return answer @ won - tie * (answer * (answer / reference).log()).sum()

    return float(value(best) - value(policy))
