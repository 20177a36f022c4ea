"""Pictures on their way into the model: prepared once, and sent through the tower once per step while it is frozen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from triune.core.errors import DataError, MediaMismatch
from triune.core.sample import Media
from triune.core.verdict import Seen

Trains = Literal["tower", "connector", "nothing"]
"""What of the way from pixels to visual features changes between evaluations."""

_TEXTUAL = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
_TILE = re.compile(r"row_(\d+)_col_(\d+)")
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture after the processor: the tower's `tensors`, the `ids` i32[T] that stand for it in a prompt (`tokens` of
    them are placeholders for features, the rest tags around them), and how it is seen."""

    tensors: Mapping[str, Tensor]
    ids: NDArray[np.int32]
    tokens: int
    seen: Seen


@dataclass(frozen=True, slots=True)
class _Towered:
    """A picture after the frozen tower: what the connector is given, and which of its output rows each feature is."""

    given: Tensor
    order: Tensor


class Pictures:
    """Known pictures by content hash: prepared, and what of their features does not change while a step lasts.

    `computed` counts pictures sent through the tower since the start: what "once" is tested by.
    """

    def __init__(self, model: Any, processor: Any, image_id: int, connector: nn.Module | None) -> None:
        self.model, self.processor, self.image_id, self.connector = model, processor, image_id, connector
        self.trains: Trains = "tower"
        self.computed = 0
        self._prepared: dict[str, Prepared] = {}
        self._features: dict[str, Tensor] = {}
        self._towered: dict[str, _Towered] = {}
        self._splits = connector is not None

    def begin_step(self, hashes: Sequence[str], trains: Trains) -> None:
        """Forgets every picture but these, and whatever this step's training will change."""
        wanted = set(hashes)
        self._prepared = {k: v for k, v in self._prepared.items() if k in wanted}
        self._features = {k: v for k, v in self._features.items() if k in wanted and trains == "nothing"}
        self._towered = {k: v for k, v in self._towered.items() if k in wanted and trains != "tower"}
        self.trains = trains

    def forget_features(self) -> None:
        """To be called when the weights were replaced."""
        self._features.clear()
        self._towered.clear()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Other weights for a while: what is kept is neither used nor touched."""
        kept = self.trains, self._features, self._towered
        self.trains, self._features, self._towered = "tower", {}, {}
        try:
            yield
        finally:
            self.trains, self._features, self._towered = kept

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._prepared

    def __getitem__(self, sha256: str) -> Prepared:
        known = self._prepared.get(sha256)
        if known is None:
            raise DataError(
                f"picture {sha256[:12]} is not known in this step: begin_step and check its sample first"
            )
        return known

    def add(self, media: Media, owner: str) -> Prepared:
        """Decodes and prepares a picture unless it is known; raises DataError naming the sample."""
        known = self._prepared.get(media.sha256)
        if known is not None:
            return known
        if media.kind != "image":
            raise DataError(f"sample {owner!r}: this policy reads images, not {media.kind}")
        try:
            made = self.processor(
                text=[self.processor.image_token],
                images=[[media.image()]],
                return_tensors="pt",
                add_special_tokens=False,
            )
        except (DataError, ValueError, Image.DecompressionBombError) as error:
            # Processors refuse sizes that they cannot resize (Qwen: sides that differ 200-fold).
            raise DataError(f"sample {owner!r}: {error}") from error
        ids = made["input_ids"][0].numpy().astype(np.int32)
        prepared = self._prepared[media.sha256] = Prepared(
            tensors={k: v for k, v in made.items() if isinstance(v, Tensor) and k not in _TEXTUAL},
            ids=ids,
            tokens=int((ids == self.image_id).sum()),
            seen=Seen(sha256=media.sha256, original=media.size, processed=self._size(made, ids)),
        )
        return prepared

    def _size(self, made: Mapping[str, Any], ids: NDArray[np.int32]) -> tuple[int, int]:
        """(width, height) in pixels of the whole picture as the policy sees it."""
        if "image_grid_thw" in made:
            patch = int(self.processor.image_processor.patch_size)
            _, height, width = made["image_grid_thw"][0].tolist()
            return int(width) * patch, int(height) * patch
        height, width = made["pixel_values"].shape[-2:]
        tags = " ".join(self.processor.tokenizer.convert_ids_to_tokens(ids[ids != self.image_id].tolist()))
        tiles = [(int(row), int(column)) for row, column in _TILE.findall(tags)] or [(1, 1)]
        return int(width) * max(c for _, c in tiles), int(height) * max(r for r, _ in tiles)

    def features(self, hashes: Sequence[str]) -> dict[str, Tensor]:
        """Features [tokens, width] per picture; with gradient where something that makes them trains."""
        unique = list(dict.fromkeys(hashes))
        if self.trains == "nothing":
            missing = [h for h in unique if h not in self._features]
            if missing:
                with torch.no_grad():
                    self._features.update(self._whole(missing))
            return {h: self._features[h] for h in unique}
        if self.trains == "connector" and self._splits and unique:
            missing = [h for h in unique if h not in self._towered]
            if missing:
                self._towered.update(self._halfway(missing))
            if self._splits:
                return self._connect(unique)
        return self._whole(unique)

    def _whole(self, hashes: Sequence[str]) -> dict[str, Tensor]:
        """Tower and connector."""
        out: dict[str, Tensor] = {}
        for part in self._batches(hashes):
            out.update(zip(part, self._run(part), strict=True))
        return out

    @torch.no_grad()
    def _halfway(self, hashes: Sequence[str]) -> dict[str, _Towered]:
        """The tower alone. What models do after the connector (Qwen2.5-VL reorders its windows) is a permutation of its
        output rows, read off by letting the connector put out row numbers instead."""
        given: list[Tensor] = []

        def number(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            given.append(args[0])
            rows = torch.arange(output[..., 0].numel(), device=output.device)
            return rows.view(*output.shape[:-1], 1)

        assert self.connector is not None
        out: dict[str, _Towered] = {}
        for part in self._batches(hashes):
            given.clear()
            hook = self.connector.register_forward_hook(number)
            try:
                numbers = [n[:, 0] for n in self._run(part)]
            except RuntimeError:  # LLaVA-NeXT adds a learned column, for which row numbers are too narrow
                numbers = []
            finally:
                hook.remove()
            rows = sum(map(len, numbers))
            if not numbers or len(given) != 1 or any(len(n) * len(given[0]) % rows for n in numbers):
                self._splits = False  # more than a permutation: these pictures go through the tower each time
                return {}
            inputs = torch.split(given[0], [len(n) * len(given[0]) // rows for n in numbers])
            start = 0
            for sha, mine, order in zip(part, inputs, numbers, strict=True):
                out[sha] = _Towered(mine, order - start)
                start += len(order)
        return out

    def _connect(self, hashes: Sequence[str]) -> dict[str, Tensor]:
        assert self.connector is not None
        ready = [self._towered[h] for h in hashes]
        rows = self.connector(torch.cat([r.given for r in ready])).flatten(0, -2)
        parts = torch.split(rows, [len(r.order) for r in ready])
        return {h: part[r.order] for h, part, r in zip(hashes, parts, ready, strict=True)}

    def _batches(self, hashes: Sequence[str]) -> Iterator[list[str]]:
        """Pictures whose tensors can be concatenated."""
        alike: dict[tuple[Any, ...], list[str]] = {}
        for sha in hashes:
            tensors = self[sha].tensors
            alike.setdefault(tuple((k, tuple(tensors[k].shape[1:])) for k in sorted(tensors)), []).append(sha)
        for same in alike.values():
            for start in range(0, len(same), _BATCH):
                yield same[start : start + _BATCH]

    def _run(self, part: Sequence[str]) -> list[Tensor]:
        device = next(self.model.parameters()).device
        tensors = [self[sha].tensors for sha in part]
        inputs = {k: torch.cat([t[k] for t in tensors]).to(device) for k in tensors[0]}
        states = self.model.model.get_image_features(**inputs, return_dict=True).pooler_output
        if isinstance(states, Tensor):
            states = list(states.reshape(len(part), -1, states.shape[-1]))
        if len(states) != len(part):
            raise MediaMismatch(f"{len(part)} pictures went into the vision tower, {len(states)} came out")
        self.computed += len(part)
        return [s.reshape(-1, s.shape[-1]) for s in states]


def check_counts(owner: str, placeholders: int, expected: Sequence[int], features: Sequence[int]) -> None:
    """Raises MediaMismatch naming the sample when its media tokens, `placeholders` in its ids and `expected` of each
    medium, and its media features disagree."""
    if placeholders != sum(features) or list(expected) != list(features):
        raise MediaMismatch(
            f"sample {owner!r}: the prompt has {placeholders} media tokens, its {len(features)} media stand for "
            f"{list(expected)} and give {list(features)} features; the processor and the model disagree about this sample"
        )
