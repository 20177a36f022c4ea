"""Log-probabilities under a recorded SamplingRule, shared by engines and learner, in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from triune.core.trajectory import SamplingRule

CHUNK = 4096


def rule_logprobs(logits: Tensor, rule: SamplingRule) -> Tensor:
    """Log-probabilities f32[N, V] of the distribution that `rule` describes.

    Banned ids get exactly zero probability and the rest is renormalised; a temperature of 0 (greedy) is scored at
    temperature 1, because an argmax has no density.
    """
    scores = logits.float()
    if rule.banned:
        scores = scores.index_fill(-1, torch.tensor(rule.banned, device=scores.device), float("-inf"))
    if rule.temperature not in (0.0, 1.0):
        scores = scores / rule.temperature
    if rule.top_k:
        lowest = scores.topk(min(rule.top_k, scores.shape[-1]), -1).values[..., -1:]
        scores = scores.masked_fill(scores < lowest, float("-inf"))
    if rule.top_p < 1:
        ordered, order = scores.softmax(-1).sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= rule.top_p
        scores = scores.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return scores.log_softmax(-1)


def _score(
    hidden: Tensor, head: Callable[[Tensor], Tensor], ids: Tensor, rule: SamplingRule, entropy: bool
) -> tuple[Tensor, Tensor]:
    logp = rule_logprobs(head(hidden), rule)
    with torch.set_grad_enabled(entropy and torch.is_grad_enabled()):
        # Banned ids have p = 0 and log p = -inf: their p log p is 0, and so must its gradient be (entr() gives NaN).
        spread = -(logp.exp() * logp.masked_fill(logp == float("-inf"), 0.0)).sum(-1)
    return logp.gather(-1, ids[:, None])[:, 0], spread


def chosen_logprobs(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    ids: Tensor,
    rule: SamplingRule,
    *,
    entropy: bool = False,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Log-prob f32[N] and entropy f32[N] of `ids` i64[N], predicted from `hidden` [N, width]; the entropy carries a
    gradient only if `entropy` is true.

    Never holds [N, vocabulary]: each chunk of rows is projected, reduced and, when a gradient is needed, recomputed
    in the backward pass.
    """
    parts = []
    for start in range(0, len(hidden), chunk):
        piece, chosen = hidden[start : start + chunk], ids[start : start + chunk]
        if torch.is_grad_enabled() and piece.requires_grad and len(hidden) > chunk:
            parts.append(checkpoint(_score, piece, head, chosen, rule, entropy, use_reentrant=False))
        else:
            parts.append(_score(piece, head, chosen, rule, entropy))
    if not parts:
        empty = hidden.new_zeros(0, dtype=torch.float32)
        return empty, empty
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
