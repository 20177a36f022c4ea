"""Rollouts by other weights than the learner's, on purpose: older ones, or rounded ones.

Asynchronous training samples from weights that are a few updates old, and engines sample in low precision. Here both happen
in one process, declared and repeatable, so that what they do to a run, and what a correction is worth, can be measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from triune.core.sample import Sample
from triune.policy.language import LanguageFamily
from triune.rollout.episode import Conversations
from triune.rollout.generator import Demand, Episode


class Lagging:
    """`inner` generates from a copy of the weights that is taken at every `refresh_every`-th update, in `dtype`.

    The copy takes the weights' place in the model while rollouts are drawn: it costs the memory of the weights that
    can train (in another precision, of all), and no second model. Every decision records the version that drew it; its
    random numbers are those of the step, so an old copy does not repeat itself. `exact` is False: the learner computes the
    old log-probs itself, and the gap to the recorded ones is what mismatch corrections are made for. Evaluation asks the
    learner's own weights.
    """

    exact = False

    def __init__(
        self,
        inner: Conversations,
        family: LanguageFamily,
        refresh_every: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        own: torch.dtype = family.model.dtype
        self.inner, self.family, self.refresh_every = inner, family, refresh_every
        self.dtype = dtype if dtype not in (None, own) else None
        self.same_arithmetic = inner.exact and self.dtype is None
        self.version = self._learner = 0
        self._copy: dict[str, Tensor] = {}

    def load(self, version: int) -> None:
        """Takes a new copy when the one that is held is `refresh_every` updates old (or from the future)."""
        if not 0 <= version - self.version < self.refresh_every:
            self._refresh(version)
        self._learner = version
        self.inner.load(version)

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        if demand.progress.phase != "train":
            return self.inner.generate(samples, demand)
        if not self._copy:
            self._refresh(demand.version)  # before the first update
        with self._in_place():
            rows = self.inner.generate(samples, demand)
        return [[self._drawn(episode) for episode in row] for row in rows]

    def _drawn(self, episode: Episode) -> Episode:
        """The episode with the number of the weights that drew it."""
        one = episode.trajectory
        version = np.full(len(one.decisions), self.version, np.int32)
        decisions = one.decisions.model_copy(update={"version": version})
        return Episode(episode.sample, one.model_copy(update={"decisions": decisions}), episode.outcome)

    def state(self) -> dict[str, object]:
        """The copy's version, and the copy unless it is of the weights that a checkpoint holds anyway."""
        return {"version": self.version, "copy": dict(self._copy) if self.version < self._learner else {}}

    def restore(self, state: Mapping[str, object], version: int) -> None:
        """Goes back to `state`, at the learner's `version`, whose weights are loaded. A copy that is not there, is of other
        weights or is too old is taken anew."""
        copy, self.version = state.get("copy"), int(str(state.get("version", version)))
        weights = self._weights()
        if isinstance(copy, dict) and {k: v.shape for k, v in copy.items()} == {
            k: v.shape for k, v in weights.items()
        }:
            self._copy = {k: copy[k].to(w.device, self.dtype or w.dtype) for k, w in weights.items()}
        else:
            self.version = -self.refresh_every
        self.load(version)

    def _weights(self) -> dict[str, Tensor]:
        """What is copied, each tensor once: all that can train, or in another precision all that computes."""
        if self.dtype is None:
            parts = self.family.modules().items()
            named = {f"{part}.{n}": p for part, m in parts for n, p in m.named_parameters()}
        else:
            # As `vlm.cast`: buffers that are computed and not saved keep their precision.
            saved = self.family.model.state_dict(keep_vars=True)
            named = {n: t for n, t in saved.items() if t.is_floating_point()}
        first = {id(t): n for n, t in reversed(list(named.items()))}
        return {n: t for n, t in named.items() if first[id(t)] == n}

    @torch.no_grad()
    def _refresh(self, version: int) -> None:
        weights = self._weights()
        if not self._copy:
            self._copy = {n: torch.empty_like(t, dtype=self.dtype or t.dtype) for n, t in weights.items()}
        for name, tensor in weights.items():
            self._copy[name].copy_(tensor)
        self.version = version

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The copy in the place of the weights. Features of pictures that the learner keeps are used only where the copy
        would give the same."""
        weights = self._weights()
        kept = {name: tensor.data for name, tensor in weights.items()}
        with nullcontext() if self._sees_alike() else self.family.pictures.apart():
            try:
                for name, tensor in weights.items():
                    tensor.data = self._copy[name]
                yield
            finally:
                for name, tensor in weights.items():
                    tensor.data = kept[name]

    def _sees_alike(self) -> bool:
        parts = self.family.modules()
        visual = {id(p) for name in ("vision", "connector") for p in parts[name].parameters()}
        return self.dtype is None and all(
            torch.equal(tensor, self._copy[name])
            for name, tensor in self._weights().items()
            if id(tensor) in visual
        )
