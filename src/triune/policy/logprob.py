"""Log-probabilities under a recorded SamplingRule, shared by engines and learner, in chunks of bounded memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from triune.core.trajectory import SamplingRule

KEPT_BYTES = 1 << 28
"""Probabilities up to this size are kept for the backward pass; more are recomputed. Chunks are a quarter of it."""


def rule_logprobs(logits: Tensor, rule: SamplingRule) -> Tensor:
    """Log-probabilities f32[N, V] of the distribution that `rule` describes.

    Banned ids get exactly zero probability and the rest is renormalised; a temperature of 0 (greedy) is scored at
    temperature 1, because an argmax has no density.
    """
    return _scores(logits, rule).log_softmax(-1)


def _scores(logits: Tensor, rule: SamplingRule) -> Tensor:
    """Logits f32[N, V] (f64 stays so) as the rule changes them; -inf for what it cannot sample."""
    scores = logits if logits.dtype == torch.float64 else logits.float()
    if rule.banned:
        scores = scores.index_fill(-1, _banned(rule.banned, scores.device), float("-inf"))
    if rule.temperature not in (0.0, 1.0):
        scores = scores / rule.temperature
    if rule.top_k:
        lowest = scores.topk(min(rule.top_k, scores.shape[-1]), -1).values[..., -1:]
        scores = scores.masked_fill(scores < lowest, float("-inf"))
    if rule.top_p < 1:
        ordered, order = scores.softmax(-1).sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= rule.top_p
        scores = scores.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return scores


@functools.lru_cache(maxsize=8)
def _banned(ids: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(ids, device=device)


class _Scored(torch.autograd.Function):
    """Log-prob [N] of `ids` and entropy [N] from logits [N, V] under a rule. Keeps one tensor of the logits' size, the
    probabilities, and turns it into the gradient in place: d log p_i = 1_i - p, and dH = -p (log p + H)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, rule: SamplingRule) -> tuple[Tensor, Tensor]:
        scores = _scores(logits, rule)
        total = scores.logsumexp(-1, keepdim=True)
        logp = scores.gather(-1, ids[:, None])[:, 0] - total[:, 0]
        p = (scores - total).exp_()
        # Banned ids have p = 0 and log p = -inf: what they add is 0.
        entropy = -torch.special.xlogy(p, p).sum(-1)
        ctx.save_for_backward(p, ids, entropy)
        ctx.scale = 1.0 if rule.temperature == 0 else 1 / rule.temperature
        ctx.dtype = logits.dtype
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        p, ids, entropy = ctx.saved_tensors
        of_logp, of_entropy = grads
        if of_logp is None and of_entropy is None:
            return None, None, None
        weight = p.new_zeros(len(p), 1) if of_logp is None else of_logp[:, None]
        if of_entropy is None:
            grad = p.mul_(-weight)
        else:
            grad = torch.special.xlogy(p, p).add_(p * entropy[:, None]).mul_(-of_entropy[:, None])
            grad.addcmul_(p, -weight)
        grad.scatter_add_(-1, ids[:, None], weight)
        return grad.mul_(ctx.scale).to(ctx.dtype), None, None


def _score(
    hidden: Tensor, head: Callable[[Tensor], Tensor], ids: Tensor, rule: SamplingRule, entropy: bool
) -> tuple[Tensor, Tensor]:
    logp, spread = _Scored.apply(head(hidden), ids, rule)  # type: ignore[no-untyped-call]
    return logp, spread if entropy else spread.detach()


def chosen_logprobs(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    ids: Tensor,
    rule: SamplingRule,
    *,
    entropy: bool = False,
    kept_bytes: int = KEPT_BYTES,
) -> tuple[Tensor, Tensor]:
    """Log-prob f32[N] and entropy f32[N] of `ids` i64[N], predicted from `hidden` [N, width]; the entropy carries a
    gradient only if `entropy` is true.

    Holds at most some `kept_bytes` of the size [N, vocabulary]: beyond that, chunks of rows are projected, reduced and,
    when a gradient is needed, recomputed in the backward pass.
    """
    if not len(hidden):
        empty = hidden.new_zeros(0, dtype=torch.float32)
        return empty, empty
    row = 4 * head(hidden[:1].detach()).shape[-1]
    chunk = max(1, kept_bytes // (4 * row))
    recompute = torch.is_grad_enabled() and hidden.requires_grad and len(hidden) * row > kept_bytes
    parts = []
    for start in range(0, len(hidden), chunk):
        piece, chosen = hidden[start : start + chunk], ids[start : start + chunk]
        if recompute:
            parts.append(checkpoint(_score, piece, head, chosen, rule, entropy, use_reentrant=False))
        else:
            parts.append(_score(piece, head, chosen, rule, entropy))
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


@torch.no_grad()
def collisions(
    hidden: Tensor, head: Callable[[Tensor], Tensor], rule: SamplingRule, *, kept_bytes: int = KEPT_BYTES
) -> Tensor:
    """The chance that two draws from a decision's distribution agree, sum over the vocabulary of p^2: f32[N], no gradient.

    Projects on the vocabulary anew, in chunks, some `kept_bytes` at a time.
    """
    if not len(hidden):
        return hidden.new_zeros(0, dtype=torch.float32)
    chunk = max(1, kept_bytes // (16 * head(hidden[:1]).shape[-1]))
    return torch.cat([_scores(head(part), rule).softmax(-1).square().sum(-1) for part in hidden.split(chunk)])
