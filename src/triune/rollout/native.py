"""The native engine: samples in this process with the learner's own weights, so its log-probs are exact.

A prompt and its pictures are computed once and serve all G rollouts; rows that have finished leave the batch. Each
token is drawn from its own counter-based random number, so a rollout does not depend on what it was batched with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from triune.core.errors import TriuneError
from triune.core.trajectory import SamplingRule
from triune.policy.attention import Attend, flash, merge
from triune.policy.language import LanguageFamily
from triune.policy.layout import following
from triune.policy.logprob import rule_logprobs
from triune.policy.packing import Path, alone, pack
from triune.rollout.engine import Completion, Request, uniforms

# Taking rows out copies the cache; below this share of finished rows the copy costs more than it saves.
_RETIRE_SHARE = 0.2
_BLOCK = 256
_ROOM = 64
"""Tokens that a row's cache has room for at first."""


class NativeEngine:
    """Batched decoding with a shared prefill. `max_rows` bounds the sequences that are decoded at once."""

    def __init__(self, family: LanguageFamily, max_rows: int = 512) -> None:
        self.family, self.max_rows = family, max_rows
        self.exact = family.exact
        self.version = 0
        self._blend: tuple[str, float] | None = None

    @contextmanager
    def blended(self, view: str, mix: float) -> Iterator[None]:
        """For a while tokens are drawn from mix * logits of the view + (1 - mix) * logits of the policy."""
        self.family.other(view)
        self._blend = view, mix
        try:
            yield
        finally:
            self._blend = None

    def load(self, version: int) -> None:
        """The weights are the learner's own objects: only their number changes."""
        self.version = version

    def effective(self, rule: SamplingRule) -> SamplingRule:
        """`rule` with the family's modality tokens banned."""
        return rule.model_copy(update={"banned": tuple(sorted({*rule.banned, *self.family.banned}))})

    @torch.no_grad()
    def complete(self, requests: Sequence[Request], rule: SamplingRule) -> list[list[Completion]]:
        rule = self.effective(rule)
        done: list[list[Completion]] = [[Completion() for _ in request.seeds] for request in requests]
        for part in self._parts(requests):
            asked = [
                replace(requests[i], seeds=tuple(requests[i].seeds[r] for r in ranks)) for i, ranks in part
            ]
            self._decode(asked, [done[i][r] for i, ranks in part for r in ranks], rule)
        return done

    def _parts(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, list[int]]]]:
        """Requests of similar prompt length together, up to `max_rows` sequences: (request, which of its seeds)."""
        part: list[tuple[int, list[int]]] = []
        free = self.max_rows
        for index in sorted(range(len(requests)), key=lambda i: len(requests[i].ids)):
            ranks = list(range(len(requests[index].seeds))) if requests[index].max_tokens > 0 else []
            while ranks:
                # A group is split only when it does not fit a part of its own.
                if free < min(len(ranks), self.max_rows):
                    yield part
                    part, free = [], self.max_rows
                part.append((index, ranks[:free]))
                ranks, free = ranks[free:], max(0, free - len(ranks))
        if part:
            yield part

    def _decode(self, requests: Sequence[Request], done: list[Completion], rule: SamplingRule) -> None:
        """Fills `done`, one completion per seed in order."""
        family = self.family
        voices = [_Voice(family, requests, 1.0)]
        if self._blend is not None:
            view, mix = self._blend
            voices = [
                _Voice(family, requests, 1 - mix),
                _Voice(family, requests, mix, family.other(view).speaking),
            ]
        device = voices[0].prompts.hidden.device
        rows = torch.cat([torch.full((len(r.seeds),), i, device=device) for i, r in enumerate(requests)])
        room = max(r.max_tokens for r in requests)
        places = voices[0].prompts.places[:, rows]
        for voice in voices:
            voice.fan_out(rows, room)
        seeds = np.asarray([seed for r in requests for seed in r.seeds], np.uint64)
        limits = np.asarray([r.max_tokens for r in requests for _ in r.seeds])
        stops = np.asarray(family.stop_ids)
        owners, alive = np.arange(len(done)), np.ones(len(done), np.bool_)
        said, scored = np.zeros((len(done), room), np.int64), np.zeros((len(done), room), np.float64)
        counts, stopped = np.zeros(len(done), np.int64), np.zeros(len(done), np.bool_)
        for position in range(room):
            logp = rule_logprobs(functools.reduce(torch.add, (voice.logits() for voice in voices)), rule)
            chosen = choose(logp, uniforms(seeds, position), rule)
            values, tokens = logp.gather(1, chosen[:, None])[:, 0].cpu().numpy(), chosen.cpu().numpy()
            del logp  # the largest tensor of a step, and not needed while the model runs
            if not np.isfinite(values).all():
                raise TriuneError(
                    f"weights number {self.version} give log-probs that are not finite: the policy has diverged. Continue "
                    "from an earlier checkpoint with a lower learning rate"
                )
            live = owners[alive]
            said[live, position], scored[live, position] = tokens[alive], values[alive]
            counts[live], stopped[live] = position + 1, np.isin(tokens[alive], stops)
            alive &= ~stopped[owners] & (position + 1 < limits)
            if not alive.any():
                break
            if alive.mean() <= 1 - _RETIRE_SHARE or (len(alive) <= 16 and not alive.all()):
                keep = torch.from_numpy(np.flatnonzero(alive)).to(device)
                for voice in voices:
                    voice.prompts.take(keep)
                chosen, places = chosen[keep], places[:, keep]
                owners, seeds, limits, alive = owners[alive], seeds[alive], limits[alive], alive[alive]
            for voice in voices:
                voice.hear(chosen, places, position)
            places = places + 1
        for completion, ids, logps, count, stop in zip(done, said, scored, counts, stopped, strict=True):
            completion.ids, completion.logps = ids[:count].tolist(), logps[:count].tolist()
            completion.stopped = bool(stop)


class _Voice:
    """Weights that the tokens are drawn by: the policy's, or those that `speaking` puts in their place. Each has a cache of
    its own; `share` is that of its logits."""

    def __init__(
        self,
        family: LanguageFamily,
        requests: Sequence[Request],
        share: float,
        speaking: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.family, self.share, self.speaking = family, share, speaking
        with speaking():
            self.prompts: _Shared | _Repeated = (_Shared if family.maskless else _Repeated)(family, requests)

    def fan_out(self, rows: Tensor, room: int) -> None:
        self.hidden = self.prompts.hidden[rows]
        self.prompts.fan_out(rows, room)

    def logits(self) -> Tensor:
        with self.speaking():
            logits: Tensor = self.family.head(self.hidden)
        return logits if self.share == 1 else self.share * logits.float()

    def hear(self, chosen: Tensor, places: Tensor, position: int) -> None:
        """Takes the tokens that were drawn, and is ready for the next ones."""
        with self.speaking():
            embeds = self.family.embed(chosen[:, None])
            attention = self.prompts.attention(position)
            self.hidden = self.family.forward(embeds, places[..., None], attention, self.prompts.cache)[:, 0]


class _Shared:
    """Prompts whose keys and values stay where they are, once for all their rollouts: a step's queries of a whole group
    look at them together, each at its own row's besides, and the two are merged (see `policy/attention.py`).

    `hidden` [requests, width] at each prompt's last token, `places` i64[axes, requests]: the next position.
    """

    def __init__(self, family: LanguageFamily, requests: Sequence[Request]) -> None:
        paths = [Path(r.ids, family.positions(r.ids, r.media, r.owner)) for r in requests]
        # One row, prompt after prompt: nothing is padded.
        rows = pack([alone([p.ids for p in paths], range(len(paths)))], paths, family.pad_id)
        embeds = family.inputs(
            rows.ids,
            [[sha for r in requests for sha in r.media]],
            [[r.owner for r in requests for _ in r.media]],
        )
        self.cache = Cache(layer_class_to_replicate=_Room)
        hidden = family.forward(embeds, rows.positions, rows.attention(), self.cache)[0]
        self._columns = [torch.from_numpy(rows.columns[i][1]) for i in range(len(paths))]
        self.hidden = hidden[torch.stack([c[-1] for c in self._columns])]
        self.places = torch.from_numpy(np.concatenate([following(p.positions, 1) for p in paths], 1))

    def fan_out(self, rows: Tensor, room: int) -> None:
        """Rows of single tokens, each of the request that `rows` [R] says, with at most `room` tokens to come."""
        longest = max(map(len, self._columns))
        index = torch.stack([nn.functional.pad(c, (0, longest - len(c))) for c in self._columns])
        real = torch.arange(longest) < torch.tensor([len(c) for c in self._columns])[:, None]
        self._mask = None
        if not real.all():
            self._mask = torch.zeros(real.shape, dtype=self.hidden.dtype).masked_fill_(~real, float("-inf"))
        self._prompts = []
        for layer in self.cache.layers:
            self._prompts.append(
                [x[0][:, index].transpose(0, 1).contiguous() for x in (layer.keys, layer.values)]
            )
            layer.reserve(len(rows), room)
        self._seat(rows)

    def _seat(self, rows: Tensor) -> None:
        """Where each row's query goes among those of its group."""
        self._rows = rows
        sizes = rows.bincount(minlength=len(self._prompts[0][0]))
        self._most = int(sizes.max())
        self._slot = None
        if not bool((sizes == self._most).all()):
            start = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]])
            self._slot = rows * self._most + torch.arange(len(rows)) - start[rows]

    def take(self, keep: Tensor) -> None:
        """Keeps these rows, and the prompts that still have any."""
        for layer in self.cache.layers:
            layer.take(keep)
        groups, rows = self._rows[keep].unique(return_inverse=True)
        if len(groups) < len(self._prompts[0][0]):
            self._prompts = [[x[groups] for x in layer] for layer in self._prompts]
            self._mask = None if self._mask is None else self._mask[groups]
        self._seat(rows)

    def attention(self, position: int) -> Attend:
        return self._attend

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [R, H, 1, D], key and value [R, K, t, D] of the rows' own tokens; [R, 1, H, D]."""
        count, heads, _, size = query.shape
        shared, ratio = key.shape[1], heads // key.shape[1]
        # Query heads that share a key head are queries of that head; no key is repeated for them.
        folded = query.reshape(count, shared, ratio, size)
        out, mass = flash(folded, key, value, scale)
        keys, values = self._prompts[layer]
        groups, most = len(keys), self._most
        if self._slot is not None:
            folded = folded.new_zeros(groups * most, shared, ratio, size).index_copy_(0, self._slot, folded)
        seated = folded.view(groups, most, shared, ratio, size).transpose(1, 2)
        mask = None if self._mask is None else self._mask[:, None, None]
        more, other = flash(seated.reshape(groups, shared, most * ratio, size), keys, values, scale, mask)
        more = (
            more.reshape(groups, shared, most, ratio, size).transpose(1, 2).reshape(-1, shared, ratio, size)
        )
        other = other.reshape(groups, shared, most, ratio).transpose(1, 2).reshape(-1, shared, ratio)
        if self._slot is not None:
            more, other = more[self._slot], other[self._slot]
        merge(out, mass, more, other)
        return out.reshape(count, 1, heads, size)


class _Repeated:
    """Prompts computed once and copied into every row's cache, under a mask: for models that bring their own attention,
    and for other devices. `hidden` and `places` as in `_Shared`."""

    def __init__(self, family: LanguageFamily, requests: Sequence[Request]) -> None:
        longest = max(len(r.ids) for r in requests)
        places = [family.positions(r.ids, r.media, r.owner) for r in requests]
        ids = np.full((len(requests), longest), family.pad_id, np.int64)
        positions = np.zeros((places[0].shape[0], len(requests), longest), np.int64)
        keys = np.zeros((len(requests), longest), np.bool_)
        for row, (request, place) in enumerate(zip(requests, places, strict=True)):
            # Padded on the left: the last column is then every prompt's last token.
            ids[row, longest - len(request.ids) :] = request.ids
            positions[:, row, longest - len(request.ids) :] = place
            keys[row, longest - len(request.ids) :] = True
        embeds = family.inputs(
            torch.from_numpy(ids), [r.media for r in requests], [[r.owner] * len(r.media) for r in requests]
        )
        self.cache = Cache(layer_class_to_replicate=_Room)
        self._real = torch.from_numpy(keys).to(embeds.device)
        hidden = family.forward(
            embeds, torch.from_numpy(positions).to(embeds.device), self._real.long(), self.cache
        )
        self.hidden = hidden[:, -1]
        self.places = torch.from_numpy(np.concatenate([following(p, 1) for p in places], 1)).to(embeds.device)

    def fan_out(self, rows: Tensor, room: int) -> None:
        """Rows of single tokens, each after a copy of the prompt that `rows` [R] says."""
        for layer in self.cache.layers:
            layer.fan_out(rows, room)
        real = self._real[rows]
        self._blocked = torch.zeros(
            len(rows), 1, 1, real.shape[1] + room, dtype=self.hidden.dtype, device=real.device
        )
        self._blocked[:, 0, 0, : real.shape[1]].masked_fill_(~real, torch.finfo(self.hidden.dtype).min)

    def take(self, keep: Tensor) -> None:
        for layer in self.cache.layers:
            layer.take(keep)
        self._blocked = self._blocked[keep]

    def attention(self, position: int) -> Tensor:
        return self._blocked[..., : self._real.shape[1] + position + 1]


class _Room(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values in buffers with room: a token is written in place, where transformers' own layer copies
    everything before it. The buffers double when they are full."""

    keys: Tensor
    values: Tensor
    reserved: list[Tensor] | None = None

    def reserve(self, rows: int, room: int) -> None:
        """Empty rows with at most `room` tokens to come."""
        self.length, self.most = 0, room
        shape = (rows, self.keys.shape[1], min(room, _ROOM), self.keys.shape[3])
        self.reserved = [x.new_empty(shape) for x in (self.keys, self.values)]

    def fan_out(self, rows: Tensor, room: int) -> None:
        """Repeats prompts as `rows` [R] says, with at most `room` tokens to come."""
        self.length, self.reserved = self.keys.shape[-2], [x[rows] for x in (self.keys, self.values)]
        self.most = self.length + room

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if self.reserved is None:
            super().update(key_states, value_states)
            return self.keys, self.values
        end = self.length + key_states.shape[-2]
        if end > self.reserved[0].shape[2]:
            more = min(self.most, 2 * end) - self.length
            self.reserved = [
                nn.functional.pad(x[:, :, : self.length], (0, 0, 0, more)) for x in self.reserved
            ]
        for buffer, new in zip(self.reserved, (key_states, value_states), strict=True):
            buffer[:, :, self.length : end] = new
        self.length = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.reserved)
        return self.keys, self.values

    def take(self, rows: Tensor) -> None:
        """Keeps these rows only."""
        assert self.reserved is not None
        self.keys = self.values = self.reserved[0][:0]  # or they would hold what is replaced
        self.reserved = [buffer[rows] for buffer in self.reserved]


def choose(logp: Tensor, uniform: NDArray[np.float64], rule: SamplingRule) -> Tensor:
    """The next ids i64[R] from log-probs f32[R, V]: the most likely ones, or by inversion of the cumulative distribution
    at `uniform` f64[R]. An id of probability zero is never chosen."""
    if rule.greedy:
        return logp.argmax(-1)
    # First which block of ids, then which id in it: one pass over the vocabulary in place of a running sum.
    mass = nn.functional.pad(logp, (0, -logp.shape[1] % _BLOCK), value=float("-inf")).exp_()
    mass = mass.view(len(logp), -1, _BLOCK)
    blocks = mass.sum(-1, dtype=torch.float64).cumsum(-1)
    drawn = torch.from_numpy(uniform).to(logp.device)[:, None] * blocks[:, -1:]
    block = _first_above(blocks, drawn)
    before = torch.where(block > 0, blocks.gather(1, (block - 1).clamp(min=0)), 0.0)
    within = mass.gather(1, block[..., None].expand(-1, -1, _BLOCK))[:, 0].double().cumsum(-1)
    return (block * _BLOCK + _first_above(within, drawn - before))[:, 0].clamp(max=logp.shape[1] - 1)  # NaN


def _first_above(cumulative: Tensor, drawn: Tensor) -> Tensor:
    """The first place i64[R, 1] where `cumulative` f64[R, N] exceeds `drawn` f64[R, 1]; never one that adds nothing."""
    # Rounding must not reach the total itself: the first place whose mass exceeds it would be past the end.
    total = cumulative[:, -1:]
    drawn = torch.minimum(drawn, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, drawn.clamp(min=0.0), right=True)
    return found.clamp(max=cumulative.shape[1] - 1)
