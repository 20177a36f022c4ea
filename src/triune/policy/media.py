"""Pictures on their way into the model: pixels prepared once, visual features computed once per picture and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from triune.core.errors import DataError, MediaMismatch
from triune.core.sample import Media

Pixels = Mapping[str, Tensor]
"""The image processor's tensors for one picture (pixel values, grids, masks)."""


class Pictures:
    """Known pictures by content hash, with their processed tensors and, while the tower is frozen, their features.

    The model's weights decide what features are, so `forget_features` is called when they change.
    """

    def __init__(self, model: Any, processor: Any, frozen: bool = False) -> None:
        self.model, self.processor, self.frozen = model, processor, frozen
        self._pixels: dict[str, Pixels] = {}
        self._features: dict[str, Tensor] = {}
        self.computed = 0  # pictures sent through the tower since the start: what "once" is tested by

    def add(self, media: Media, owner: str) -> None:
        """Decodes and processes a picture unless it is known; raises DataError naming the sample."""
        if media.sha256 in self._pixels:
            return
        try:
            image = media.image()
        except DataError as error:
            raise DataError(f"sample {owner!r}: {error}") from error
        made = self.processor.image_processor(images=[[image]], return_tensors="pt")
        self._pixels[media.sha256] = {k: v for k, v in made.items() if isinstance(v, Tensor)}

    def put(self, sha256: str, pixels: Pixels) -> None:
        self._pixels[sha256] = pixels

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._pixels

    def pixels(self, sha256: str) -> Pixels:
        return self._pixels[sha256]

    def keep(self, hashes: Sequence[str]) -> None:
        """Forgets every picture but these."""
        wanted = set(hashes)
        self._pixels = {k: v for k, v in self._pixels.items() if k in wanted}
        self._features = {k: v for k, v in self._features.items() if k in wanted}

    def forget_features(self) -> None:
        self._features.clear()

    def features(self, hashes: Sequence[str]) -> dict[str, Tensor]:
        """Features [tokens, width] per picture. Kept while the tower is frozen, with gradient otherwise."""
        unique = list(dict.fromkeys(hashes))
        if not self.frozen:
            return self._compute(unique)
        missing = [h for h in unique if h not in self._features]
        if missing:
            with torch.no_grad():
                self._features.update(self._compute(missing))
        return {h: self._features[h] for h in unique}

    def _compute(self, hashes: Sequence[str]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        shaped: dict[tuple[Any, ...], list[str]] = {}
        for sha in hashes:
            shape = tuple((k, tuple(v.shape[1:])) for k, v in sorted(self._pixels[sha].items()))
            shaped.setdefault(shape, []).append(sha)
        device = next(self.model.parameters()).device
        for same in shaped.values():
            for start in range(0, len(same), 256):
                part = same[start : start + 256]
                inputs = {k: torch.cat([self._pixels[s][k] for s in part]).to(device) for k in self._pixels[part[0]]}
                states = self.model.model.get_image_features(**inputs, return_dict=True).pooler_output
                if isinstance(states, Tensor):
                    states = list(states.reshape(len(part), -1, states.shape[-1]))
                if len(states) != len(part):
                    raise MediaMismatch(f"{len(part)} pictures went into the vision tower, {len(states)} came out")
                out.update(zip(part, (s.reshape(-1, s.shape[-1]) for s in states), strict=True))
        self.computed += len(hashes)
        return out


def check_counts(owner: str, placeholders: int, features: Sequence[int]) -> None:
    """Raises MediaMismatch naming the sample when its media tokens and its media features disagree."""
    if placeholders != sum(features):
        raise MediaMismatch(
            f"sample {owner!r}: the prompt has {placeholders} media tokens but its {len(features)} media give "
            f"{sum(features)} features ({list(features)}); the processor and the model disagree about this sample"
        )
