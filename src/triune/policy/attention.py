"""Attention over a token tree without ever building a mask.

In a tree's preorder the columns below a segment are one range, and the tokens there see all of the segment. So attention
is a causal part for every segment on its own, and an unmasked part for what lies below every inner one; the parts of a
query are merged by their log-sum-exp (as in ring attention, Liu et al. 2023, arXiv:2310.01889). Nothing of the size
[columns, columns] exists, and no score is computed that a mask would hide.

The kernel is torch's own for the CPU. Elsewhere, and for models that bring their own attention, rows carry a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "triune_tree"
"""What the attention of this module is registered as in transformers."""

_SLACK = 0.8
"""Segments at least this long in comparison with the longest of their batch are computed together, padded."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Attend(Protocol):
    """Computes one layer's attention: query [B, H, T, D], key and value [B, K, T, D] to [B, T, H, D]."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """Columns `start`..`stop` of a flat row that hold a tree's segment; all below it lies in `stop`..`until`."""

    start: int
    stop: int
    until: int


@dataclass(frozen=True, slots=True)
class _Together:
    """Segments computed in one call: `count` of `size` columns each, one after the other from `first`, or gathered from
    `index` i64[count * size], where `real` bool[count * size] tells the columns from padding."""

    count: int
    size: int
    first: int
    index: Tensor | None = None
    real: Tensor | None = None

    def take(self, flat: Tensor) -> Tensor:
        """[N, H, ...] to [count, H, size, ...]."""
        end = self.first + self.count * self.size
        found = flat[self.first : end] if self.index is None else flat[self.index]
        return found.view(self.count, self.size, *flat.shape[1:]).transpose(1, 2)

    def put(self, flat: Tensor, found: Tensor) -> None:
        found = found.transpose(1, 2).reshape(self.count * self.size, *flat.shape[1:])
        if self.index is None:
            flat[self.first : self.first + len(found)] = found
        else:
            flat[self.index[self.real]] = found[self.real]


@dataclass(slots=True)
class TreeAttention:
    """The parts of a layout's attention: what to compute together causally, and which ranges of queries see all of which
    range of keys. Columns are numbered through all rows."""

    own: list[_Together] = field(default_factory=list)
    over: list[tuple[slice, slice]] = field(default_factory=list)

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> TreeAttention:
        """Every column belongs to exactly one of the segments, given in ascending order."""
        plan = cls(
            over=[(slice(s.stop, s.until), slice(s.start, s.stop)) for s in segments if s.until > s.stop]
        )
        waiting = sorted(segments, key=lambda s: (s.start - s.stop, s.start))
        while waiting:
            longest = waiting[0].stop - waiting[0].start
            count = sum(s.stop - s.start >= _SLACK * longest for s in waiting)
            plan.own.append(_together(waiting[:count], longest))
            waiting = waiting[count:]
        return plan

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        rows, _, length, _ = query.shape
        flat = [x.transpose(1, 2).reshape(rows * length, x.shape[1], x.shape[3]) for x in (query, key, value)]
        out: Tensor = _Attention.apply(*flat, self, scale)  # type: ignore[no-untyped-call]
        return out.view(rows, length, *out.shape[1:])


def _together(segments: Sequence[Segment], size: int) -> _Together:
    starts = [s.start for s in segments]
    lengths = [s.stop - s.start for s in segments]
    if lengths == [size] * len(starts) and starts == [starts[0] + i * size for i in range(len(starts))]:
        return _Together(len(starts), size, starts[0])
    steps = torch.arange(size)
    inside = steps < torch.tensor(lengths)[:, None]
    index = torch.where(inside, torch.tensor(starts)[:, None] + steps, starts[0])
    return _Together(len(starts), size, 0, index.flatten(), inside.flatten())


class _Attention(torch.autograd.Function):
    """query [N, H, D], key and value [N, K, D] of N columns; K divides H."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: TreeAttention, scale: float
    ) -> Tensor:
        out = torch.empty_like(query)
        mass = query.new_empty(query.shape[:2], dtype=_mass_dtype(query))
        for part in plan.own:
            found, one = _flash(*(part.take(x) for x in (query, key, value)), 0.0, True, scale=scale)
            part.put(out, found)
            part.put(mass, one)
        for below, above in plan.over:
            found, one = _flash(_row(query[below]), _row(key[above]), _row(value[above]), scale=scale)
            merge(out[below], mass[below], found[0].transpose(0, 1), one[0].transpose(0, 1))
        ctx.save_for_backward(query, key, value, out, mass)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, mass = ctx.saved_tensors
        plan, scale = ctx.plan, ctx.scale
        grad = grads[0].contiguous()
        found = [torch.empty_like(x) for x in (query, key, value)]
        for part in plan.own:
            given, total = part.take(grad), part.take(mass).contiguous()
            if part.real is not None:
                # Padding has no gradient; its scores must not overflow against another token's mass.
                real = part.real.view(part.count, 1, part.size)
                given, total = given * real[..., None], total.masked_fill(~real, torch.finfo(total.dtype).max)
            states = (part.take(x) for x in (query, key, value, out))
            parts = _flash_backward(given, *states, total, 0.0, True, scale=scale)
            for whole, one in zip(found, parts, strict=True):
                part.put(whole, one)
        for below, above in plan.over:
            # With the merged output and mass, a part's gradient is its share of the whole softmax's.
            parts = _flash_backward(
                _row(grad[below]), _row(query[below]), _row(key[above]), _row(value[above]), _row(out[below]),
                mass[below].t()[None].contiguous(), 0.0, False, scale=scale,
            )  # fmt: skip
            for whole, where, one in zip(found, (below, above, above), parts, strict=True):
                whole[where] += one[0].transpose(0, 1)
        return (*found, None, None)


def flash(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention [B, H, Q, D] of queries [B, H, Q, D] over all keys and values [B, H, T, D], and the log-sum-exp [B, H, Q]
    of the scores, without gradient; an additive `mask` must broadcast to [B, H, Q, T]."""
    out, mass = _flash(query, key, value, attn_mask=mask, scale=scale)
    return out, mass


def _row(flat: Tensor) -> Tensor:
    """[N, H, D] to [1, H, N, D]."""
    return flat.transpose(0, 1)[None]


def _mass_dtype(states: Tensor) -> torch.dtype:
    """The kernel's log-sum-exp is float32 for everything shorter."""
    return states.dtype if states.dtype == torch.float64 else torch.float32


def merge(out: Tensor, mass: Tensor, found: Tensor, one: Tensor) -> None:
    """Merges attention over more keys into `out` [..., D] and `mass` [...] (log-sum-exp of the scores) in place."""
    total = torch.logaddexp(mass, one)
    out.mul_((mass - total).exp_()[..., None]).add_(found * (one - total).exp_()[..., None])
    mass.copy_(total)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree: Attend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' interface: with `tree`, that layout's attention and no mask; without, torch's, under the mask."""
    if tree is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert scaling is not None
    return tree(int(module.layer_idx), query, key, value, scaling), None  # type: ignore[arg-type]


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def no_mask(states: Tensor) -> Tensor:
    """What is handed to a model in place of a mask when attention needs none: four axes, which it takes for a mask that
    is ready, instead of building one."""
    return states.new_empty(1, 1, 0, 0)


def install(decoder: Any, agrees: Callable[[], bool]) -> bool:
    """Makes `attend` the decoder's attention if `agrees` then says that it computes what it did; otherwise leaves all as
    it was, and the answer is no."""
    if next(decoder.parameters()).device.type != "cpu":
        return False
    before = decoder.config._attn_implementation
    try:
        decoder.set_attn_implementation(NAME)
        if agrees():
            return True
    except Exception:  # whatever a model does with an argument that it does not know
        pass
    decoder.set_attn_implementation(before)
    return False
