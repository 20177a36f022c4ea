"""The native engine: samples in this process with the learner's own weights, so its log-probs are exact.

A prompt and its pictures are computed once and their cache is fanned out to the G rollouts; rows that have finished
leave the batch. Each token is drawn from its own counter-based random number, so a rollout does not depend on what
it was batched with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from triune.core.errors import TriuneError
from triune.core.trajectory import SamplingRule
from triune.policy.language import LanguageFamily
from triune.policy.layout import following
from triune.policy.logprob import rule_logprobs
from triune.rollout.engine import Completion, Request, uniforms

# Taking rows out copies the cache; below this share of finished rows the copy costs more than it saves.
_RETIRE_SHARE = 0.2


class NativeEngine:
    """Batched decoding with a shared prefill. `max_rows` bounds the sequences that are decoded at once."""

    def __init__(self, family: LanguageFamily, max_rows: int = 512) -> None:
        self.family, self.max_rows = family, max_rows
        self.exact = family.exact
        self.version = 0

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

    def _prefill(self, requests: Sequence[Request]) -> tuple[Tensor, Cache, Tensor, Tensor]:
        """Hidden state at each prompt's last token, the cache, which keys are real bool[R, P], and the next positions
        i64[A, R]."""
        family = self.family
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
        cache = Cache(layer_class_to_replicate=_Room)
        real = torch.from_numpy(keys).to(embeds.device)
        hidden = family.forward(embeds, torch.from_numpy(positions).to(embeds.device), real.long(), cache)
        after = torch.from_numpy(np.concatenate([following(p, 1) for p in places], 1)).to(embeds.device)
        return hidden[:, -1], cache, real, after

    def _decode(self, requests: Sequence[Request], done: list[Completion], rule: SamplingRule) -> None:
        """Fills `done`, one completion per seed in order."""
        family = self.family
        hidden, cache, real, places = self._prefill(requests)
        device = hidden.device
        rows = torch.cat([torch.full((len(r.seeds),), i, device=device) for i, r in enumerate(requests)])
        room = max(r.max_tokens for r in requests)
        for layer in cache.layers:
            layer.fan_out(rows, room)
        hidden, places = hidden[rows], places[:, rows]
        blocked = torch.zeros(len(rows), 1, 1, real.shape[1] + room, dtype=hidden.dtype, device=device)
        blocked[:, 0, 0, : real.shape[1]].masked_fill_(~real[rows], torch.finfo(hidden.dtype).min)
        seeds = np.asarray([seed for r in requests for seed in r.seeds], np.uint64)
        limits = np.asarray([r.max_tokens for r in requests for _ in r.seeds])
        owners, alive = np.arange(len(done)), np.ones(len(done), np.bool_)
        for position in range(room):
            logp = rule_logprobs(family.head(hidden), rule)
            chosen = choose(logp, uniforms(seeds, position), rule)
            values = logp.gather(1, chosen[:, None])[:, 0].tolist()
            tokens = chosen.tolist()
            if not all(map(math.isfinite, values)):
                raise TriuneError(
                    f"weights number {self.version} give log-probs that are not finite: the policy has diverged. Continue "
                    "from an earlier checkpoint with a lower learning rate"
                )
            for row in np.flatnonzero(alive).tolist():
                completion = done[owners[row]]
                completion.ids.append(tokens[row])
                completion.logps.append(values[row])
                completion.stopped = tokens[row] in family.stop_ids
                alive[row] = not completion.stopped and len(completion.ids) < limits[row]
            if not alive.any():
                return
            if alive.mean() <= 1 - _RETIRE_SHARE or (len(alive) <= 16 and not alive.all()):
                keep = torch.from_numpy(np.flatnonzero(alive)).to(device)
                for layer in cache.layers:
                    layer.take(keep)
                chosen, places, blocked = chosen[keep], places[:, keep], blocked[keep]
                owners, seeds, limits, alive = owners[alive], seeds[alive], limits[alive], alive[alive]
            mask = blocked[..., : real.shape[1] + position + 1]
            hidden = family.forward(family.embed(chosen[:, None]), places[..., None], mask, cache)[:, 0]
            places = places + 1


class _Room(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values with room reserved after the prompt: a token is written in place, where transformers'
    own layer copies everything before it."""

    keys: Tensor
    values: Tensor
    reserved: list[Tensor] | None = None

    def fan_out(self, rows: Tensor, room: int) -> None:
        """Repeats prompts as `rows` [R] says and reserves `room` tokens."""
        self.length = self.keys.shape[-2]
        self.reserved = []
        for old in (self.keys, self.values):
            new = old.new_empty(len(rows), old.shape[1], self.length + room, old.shape[3])
            new[:, :, : self.length] = old[rows]
            self.reserved.append(new)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if self.reserved is None:
            super().update(key_states, value_states)
        else:
            end = self.length + key_states.shape[-2]
            for buffer, new in zip(self.reserved, (key_states, value_states), strict=True):
                buffer[:, :, self.length : end] = new
            self.length = end
            self.keys, self.values = (buffer[:, :, :end] for buffer in self.reserved)
        return self.keys, self.values

    def take(self, rows: Tensor) -> None:
        """Keeps these rows only."""
        assert self.reserved is not None
        self.reserved = [buffer[rows] for buffer in self.reserved]


def choose(logp: Tensor, uniform: NDArray[np.float64], rule: SamplingRule) -> Tensor:
    """The next ids i64[R] from log-probs f32[R, V]: the most likely ones, or by inversion of the cumulative distribution
    at `uniform` f64[R]. An id of probability zero is never chosen."""
    if rule.greedy:
        return logp.argmax(-1)
    cumulative = logp.double().exp().cumsum(-1)
    total = cumulative[:, -1:]
    drawn = torch.from_numpy(uniform).to(logp.device)[:, None] * total
    # Rounding must not reach the total itself: the first id whose cumulative mass exceeds it would be past the end.
    drawn = torch.minimum(drawn, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, drawn, right=True)[:, 0].clamp(
        max=logp.shape[-1] - 1
    )  # NaN: past the end
