"""Attention masks of models whose layers differ from full causal attention, for any layout of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from triune.policy.vlm import Attends


@dataclass(slots=True)
class Inputs:
    """What goes into a language model: embeddings [R, L, width] with visual features in place; which tokens stand for
    pictures, bool[R, L] (None: none does); and what is added to theirs after each of the first layers, [pictured tokens,
    width] (DeepStack, arXiv:2406.04334)."""

    embeds: Tensor
    pictured: Tensor | None = None
    deep: tuple[Tensor, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        return self.embeds.dtype

    @property
    def device(self) -> torch.device:
        return self.embeds.device


def masks(attends: Attends, mask: Tensor | None, places: Tensor, given: Inputs, cached: bool) -> Any:
    """What a model is given as its mask. `mask`: additive [R or 1, 1, Q, K], or real keys [R, K]; `places` i64[R, Q].

    Causal models take `mask` as it is. Gemma 3 takes one per kind of layer: in all, the tokens of a picture see each
    other; in some, a token sees `window` tokens of its path, whatever columns lie between them. A model whose layers
    cannot be given a mask is told which keys are real and makes its own.
    """
    if not attends.packs:
        if mask is None or mask.ndim == 2:
            return mask
        # Rows of one rollout, padded on the right: no token sees padding. While decoding, one token sees all real keys.
        return (mask[:, 0, -1] == 0).long() if cached else None
    if not attends.mutual and attends.window is None:
        return mask
    query = places
    if mask is None or mask.ndim == 2:
        size = query.shape[1]
        causal = torch.ones(size, size, dtype=torch.bool, device=query.device).tril()
        seen = causal[None] if mask is None else causal & mask.bool()[:, None]
        seen = seen | torch.eye(size, dtype=torch.bool, device=query.device)
    else:
        seen = mask[:, 0] == 0
    back = seen.shape[-1]
    # Decoding: the keys are the path up to the new token, one by one. Otherwise keys and queries are the same columns.
    key = query if back == query.shape[1] else query - torch.arange(back - 1, -1, -1, device=query.device)
    if attends.mutual and given.pictured is not None:
        inside = given.pictured
        first = inside & ~inside.roll(1, -1)
        first[:, 0] = inside[:, 0]
        block = first.cumsum(-1)
        together = (block[:, :, None] == block[:, None, :]) & inside[:, :, None] & inside[:, None, :]
        seen = seen | together
    whole = _additive(seen, given.dtype)
    if attends.window is None:
        return {"full_attention": whole, "sliding_attention": whole}
    near = query[:, :, None] - key[:, None, :] < attends.window
    # Padding looks at itself only; the new token of a decoding step is the last key.
    eye = torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device) if back == seen.shape[1] else False
    return {"full_attention": whole, "sliding_attention": _additive((seen & near) | eye, given.dtype)}


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(seen[:, None], 0.0, torch.finfo(dtype).min).to(dtype)
