"""Estimates of a Kullback-Leibler divergence from one sample's log-ratio, and the exact one from two distributions.

With d = log pi - log ref of a decision drawn from pi, in nats:

| form | value | its mean under pi | expected gradient when it is a loss (samples fixed) |
|---|---|---|---|
| k1 | d | KL(pi, ref) | 0: E[grad log pi] = 0 |
| abs | abs(d) | | grad sum abs(pi - ref), twice the total variation |
| k2 | d^2 / 2 | about KL | grad KL(pi, ref) |
| k3 | exp(-d) - 1 + d | KL(pi, ref) | grad KL(ref, pi), the *forward* divergence |
| k3+ | that of k3 | KL(pi, ref) | that of k2 |

Values: Schulman, "Approximating KL divergence" (2020). Gradients: exact over a categorical in tests/unit/algo/test_terms_kl.py.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Form = Literal["k1", "abs", "k2", "k3", "k3+"]

ROUNDING = 1e-5
"""Log-probs of the same weights by two passes differ by up to so much (see `policy.family`)."""


def estimate(
    form: Form, logs: Tensor, log_bound: float | None = 20.0, value_bound: float | None = None
) -> Tensor:
    """The estimate per decision, [N], of logs = log pi - log ref [N].

    As in verl `log_bound` is about what is exponentiated, k3 and the value of k3+; its `value_bound` there is 10. There is
    no gradient beyond either.
    """
    if form == "k1":
        value = logs
    elif form == "abs":
        # What is equal up to rounding has no side: a sign made of noise would be a whole gradient.
        value = torch.where(logs.abs() < ROUNDING, 0.0, logs.abs())
    elif form == "k2":
        value = 0.5 * logs.square()
    else:
        held = logs if log_bound is None else logs.clamp(-log_bound, log_bound)
        value = (-held).expm1() + held
        if form == "k3+":
            smooth = 0.5 * logs.square()
            value = value.detach() + smooth - smooth.detach()
    return value if value_bound is None else value.clamp(-value_bound, value_bound)


def divergence(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(p, q) per decision, [N], of two tables of log-probabilities [N, choices].

    Choices that p gives no probability count 0, whatever q gives them; one that only q excludes makes it infinite.
    """
    possible = logp > -torch.inf
    gap = torch.where(possible, logp, 0.0) - torch.where(possible, logq, 0.0)
    return (torch.where(possible, logp, -torch.inf).exp() * gap).sum(-1)
