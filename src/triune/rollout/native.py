"""The native engine: samples in this process with the learner's own weights, so its log-probs are exact.

A prompt and its pictures are computed once and their cache is fanned out to the G rollouts; rows that have finished
leave the batch. Each token is drawn from its own counter-based random number, so a rollout does not depend on what
it was batched with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from triune.core.trajectory import SamplingRule
from triune.policy.language import LanguageFamily
from triune.policy.logprob import rule_logprobs
from triune.rollout.engine import Completion, Request, uniforms

# Compacting the cache copies it; below this share of finished rows the copy costs more than it saves.
_RETIRE_SHARE = 0.2


class NativeEngine:
    """Batched decoding with a shared prefill. `max_rows` bounds the sequences that are decoded at once."""

    exact = True

    def __init__(self, family: LanguageFamily, max_rows: int = 512) -> None:
        self.family, self.max_rows = family, max_rows
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
        live = [i for i, request in enumerate(requests) if request.max_tokens > 0]
        for part in self._parts(requests, live):
            self._decode([requests[i] for i in part], [done[i] for i in part], rule)
        return done

    def _parts(self, requests: Sequence[Request], live: Sequence[int]) -> Iterator[list[int]]:
        """Requests of similar prompt length together, up to `max_rows` sequences."""
        part: list[int] = []
        rows = 0
        for index in sorted(live, key=lambda i: len(requests[i].ids)):
            if part and rows + len(requests[index].seeds) > self.max_rows:
                yield part
                part, rows = [], 0
            part.append(index)
            rows += len(requests[index].seeds)
        if part:
            yield part

    def _prefill(self, requests: Sequence[Request]) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        """Hidden state at each prompt's last token, the cache, the key mask [R, P] and the next positions [A, R]."""
        family = self.family
        device = next(family.model.parameters()).device
        longest = max(len(r.ids) for r in requests)
        places = [family.positions(r.ids, r.media) for r in requests]
        ids = np.full((len(requests), longest), family.pad_id, np.int64)
        positions = np.zeros((places[0].shape[0], len(requests), longest), np.int64)
        keys = np.zeros((len(requests), longest), np.int64)
        for row, (request, place) in enumerate(zip(requests, places, strict=True)):
            # Padded on the left: the last column is then every prompt's last token.
            ids[row, longest - len(request.ids) :] = request.ids
            positions[:, row, longest - len(request.ids) :] = place
            keys[row, longest - len(request.ids) :] = 1
        tokens = torch.from_numpy(ids).to(device)
        embeds = family.inputs(tokens, [r.media for r in requests], [r.owner for r in requests])
        cache = DynamicCache()
        mask = torch.from_numpy(keys).to(device)
        hidden = family.forward(embeds, torch.from_numpy(positions).to(device), mask, cache)
        after = torch.from_numpy(np.stack([p.max(1) + 1 for p in places], 1)).to(device)
        return hidden[:, -1], cache, mask, after

    def _decode(self, requests: Sequence[Request], done: list[list[Completion]], rule: SamplingRule) -> None:
        family = self.family
        hidden, cache, keys, places = self._prefill(requests)
        counts = torch.tensor([len(r.seeds) for r in requests], device=hidden.device)
        rows = torch.arange(len(requests), device=hidden.device).repeat_interleave(counts)
        cache.batch_select_indices(rows)
        hidden, keys, places = hidden[rows], keys[rows], places[:, rows]
        owners = [completion for many in done for completion in many]
        seeds = np.asarray([seed for r in requests for seed in r.seeds], np.uint64)
        limits = torch.tensor([r.max_tokens for r in requests])[rows.cpu()]
        stops = torch.tensor(family.stop_ids)
        for position in range(int(limits.max())):
            logp = rule_logprobs(family.head(hidden), rule).cpu()
            chosen = _choose(logp, seeds, position, rule)
            picked = logp.gather(1, chosen[:, None])[:, 0]
            stopped = torch.isin(chosen, stops)
            for owner, token, value, stop in zip(
                owners, chosen.tolist(), picked.tolist(), stopped.tolist(), strict=True
            ):
                owner.ids.append(token)
                owner.logps.append(value)
                owner.stopped = stop
            alive = ~(stopped | (limits <= position + 1))
            if not bool(alive.any()):
                return
            if float(alive.float().mean()) <= 1 - _RETIRE_SHARE or (not bool(alive.all()) and len(alive) <= 16):
                keep = alive.nonzero()[:, 0]
                cache.batch_select_indices(keep.to(hidden.device))
                keys, places, chosen = keys[keep.to(keys.device)], places[:, keep.to(places.device)], chosen[keep]
                seeds, limits = seeds[keep.numpy()], limits[keep]
                owners = [owners[i] for i in keep.tolist()]
            else:
                # Rows that wait to be retired write into completions that nobody reads.
                owners = [o if a else Completion() for o, a in zip(owners, alive.tolist(), strict=True)]
                limits = torch.where(alive, limits, 0)
            keys = torch.cat([keys, keys.new_ones(len(keys), 1)], 1)
            embeds = family.embed(chosen.to(keys.device)[:, None])
            hidden = family.forward(embeds, places[..., None], keys, cache)[:, 0]
            places = places + 1


def _choose(logp: Tensor, seeds: np.ndarray, position: int, rule: SamplingRule) -> Tensor:
    """The next ids i64[R]: the most likely ones, or by inversion of the cumulative distribution."""
    if rule.greedy:
        return logp.argmax(-1)
    cumulative = logp.double().exp().cumsum(-1)
    drawn = torch.from_numpy(uniforms(seeds, position))[:, None] * cumulative[:, -1:]
    # The first id whose cumulative mass exceeds the draw; ids of zero mass are never it.
    return torch.searchsorted(cumulative, drawn, right=True)[:, 0].clamp(max=logp.shape[-1] - 1)
