"""Pictures on their way into the model: prepared once, and sent through the tower once per step while it is frozen."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers.image_processing_utils import select_best_resolution

from triune.core.errors import DataError, MediaMismatch
from triune.core.sample import Media, Sample
from triune.core.verdict import Seen
from triune.policy import vlm

Trains = Literal["tower", "connector", "nothing"]
"""What of the way from pixels to visual features changes between evaluations."""

_TEXTUAL = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
_TILE = re.compile(r"row_(\d+)_col_(\d+)")
_BATCH = 256
_SEVERAL, _VIEW = "/several", "@"
"""What a picture's key ends in: it is shown with others; it stands in a picture's place, in the view that follows."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture after the processor: the tower's `tensors`, the `ids` i32[T] that stand for it in a prompt (`tokens` of
    them are placeholders for features, the rest tags around them), the plain text `around` them, how it is seen, and the
    `medium` that it was made of."""

    tensors: Mapping[str, Tensor]
    ids: NDArray[np.int32]
    tokens: int
    around: tuple[str, str]
    seen: Seen
    medium: Media


@dataclass(frozen=True, slots=True)
class _Towered:
    """A picture after the frozen tower: what each connector is given, and which of its output rows each feature is, i64
    [tokens, connectors]."""

    given: list[Tensor]
    order: Tensor


class Pictures:
    """Known pictures by content hash: prepared, and what of their features does not change while a step lasts.

    `computed` counts pictures sent through the tower since the start: what "once" is tested by.
    """

    def __init__(self, model: Any, processor: Any, image_id: int, connectors: Sequence[nn.Module]) -> None:
        self.model, self.processor, self.image_id, self.connectors = model, processor, image_id, connectors
        self.trains: Trains = "tower"
        self.computed = 0
        self._prepared: dict[str, Prepared] = {}
        self._features: dict[str, Tensor] = {}
        self._towered: dict[str, _Towered] = {}
        self._splits = bool(connectors)
        self._company = "batch_num_images" in processor.image_processor.model_input_names
        self._several: set[str] = set()
        self._patch = vlm.patch_size(model.config)

    def begin_step(self, samples: Sequence[Sample], trains: Trains) -> None:
        """Forgets every picture but these samples', and whatever this step's training will change."""
        wanted = {medium.sha256 for sample in samples for medium in sample.media}
        self._several.clear()
        for sample in samples:
            self.announce(sample)
        self._prepared = {k: v for k, v in self._prepared.items() if v.seen.sha256 in wanted}
        self._features = {
            k: v for k, v in self._features.items() if k in self._prepared and trains == "nothing"
        }
        self._towered = {k: v for k, v in self._towered.items() if k in self._prepared and trains != "tower"}
        self.trains = trains

    def forget_features(self) -> None:
        """To be called when the weights were replaced."""
        self._features.clear()
        self._towered.clear()

    @contextmanager
    def apart(self, features: dict[str, Tensor] | None = None) -> Iterator[None]:
        """Other weights for a while: what is kept of the policy's own is neither used nor touched. Theirs are kept in
        `features`, for as long as they are the same weights; without, each time is the first."""
        kept = self.trains, self._features, self._towered
        self.trains, self._features = ("tower", {}) if features is None else ("nothing", features)
        self._towered = {}
        try:
            yield
        finally:
            self.trains, self._features, self._towered = kept

    def key(self, sha256: str, owner: str) -> str:
        """What a sample's picture is known by. LLaVA-OneVision looks at a picture differently in a prompt of several."""
        return f"{sha256}{_SEVERAL}" if self._company and owner in self._several else sha256

    def __contains__(self, key: str) -> bool:
        return key in self._prepared

    def __getitem__(self, key: str) -> Prepared:
        known = self._prepared.get(key)
        if known is None:
            raise DataError(
                f"picture {key[:12]} is not known in this step: begin_step and check its sample first"
            )
        return known

    def announce(self, sample: Sample) -> None:
        """To be called before a sample's pictures are added: says how many its prompt has."""
        if len(sample.media) > 1:
            self._several.add(sample.id)

    def add(self, media: Media, owner: str) -> Prepared:
        """Decodes and prepares a picture unless it is known; raises DataError naming the sample."""
        key = self.key(media.sha256, owner)
        known = self._prepared.get(key)
        if known is not None:
            return known
        if media.kind != "image":
            raise DataError(f"sample {owner!r}: this policy reads images, not {media.kind}")
        prepared = self._prepared[key] = self._prepare(
            media, media.image, owner, 2 if key.endswith(_SEVERAL) else 1
        )
        return prepared

    def _prepare(self, media: Media, image: Callable[[], Image.Image], owner: str, copies: int) -> Prepared:
        """What the processor makes of `image`, which is that of `media` or stands in its place; a prompt of several
        pictures shows it `copies` times."""
        try:
            made = self.processor(
                text=[self.processor.image_token * copies],
                images=[[image()] * copies],
                return_tensors="pt",
                add_special_tokens=False,
            )
        except (DataError, ValueError, Image.DecompressionBombError) as error:
            # Processors refuse sizes that they cannot resize (Qwen: sides that differ 200-fold).
            raise DataError(f"sample {owner!r}: {error}") from error
        ids = made["input_ids"][0].numpy().astype(np.int32)
        ids = ids[: len(ids) // copies]
        before, core, after = self._edges(ids)
        size = self._size(made, ids, media.size)
        shown = size if "image_grid_thw" in made else made["pixel_values"].shape[-2:]
        if not (ids == self.image_id).any() or min(shown) < self._patch:
            raise DataError(
                f"sample {owner!r}: the processor resizes a picture of {media.size[0]} x {media.size[1]} to "
                f"{size[0]} x {size[1]}, below the patch size {self._patch}: nothing of it would be seen. Raise "
                "policy.min_pixels, enlarge the picture or drop the row"
            )
        tensors = {k: v for k, v in made.items() if isinstance(v, Tensor) and k not in _TEXTUAL}
        return Prepared(
            tensors={k: v if k == "batch_num_images" else v[: len(v) // copies] for k, v in tensors.items()},
            ids=core,
            tokens=int((ids == self.image_id).sum()),
            around=(before, after),
            seen=Seen(sha256=media.sha256, original=media.size, processed=size),
            medium=media,
        )

    def altered(self, key: str, view: str, change: Callable[[Prepared], Image.Image | None]) -> str:
        """The key of what `view` shows in place of a picture: what `change` made of it when it was first asked for in this
        step, or the picture itself where that is None. Raises MediaMismatch when it stands for other ids."""
        altered = f"{key}{_VIEW}{view}"
        if altered in self._prepared:
            return altered
        real = self[key]
        image = change(real)
        if image is None:
            self._prepared[altered] = real
            return altered
        owner = f"{key[:12]} in view {view}"
        made = self._prepare(real.medium, lambda: image, owner, 2 if key.endswith(_SEVERAL) else 1)
        if not np.array_equal(made.ids, real.ids):
            raise MediaMismatch(
                f"picture {key[:12]} takes {real.tokens} tokens, and {made.tokens} in view {view!r}: the processor looks at "
                "more than its size, so that a corrupted picture cannot stand in its place"
            )
        self._prepared[altered] = made
        return altered

    def forget(self, view: str) -> None:
        """Drops what a view showed."""
        for kept in (self._prepared, self._features, self._towered):
            for key in [k for k in kept if k.endswith(f"{_VIEW}{view}")]:
                del kept[key]

    def others(self, sha256: str) -> list[Media]:
        """The other pictures of this step, in an order of their own."""
        real = {p.seen.sha256: p.medium for p in self._prepared.values()}
        return [real[sha] for sha in sorted(real) if sha != sha256]

    def adopt(self, others: Pictures, sha256: str, owner: str) -> None:
        """Makes a picture known that another policy knows."""
        if owner in others._several:
            self._several.add(owner)
        if self.key(sha256, owner) not in self._prepared:
            self.add(others[others.key(sha256, owner)].medium, owner)

    def _edges(self, ids: NDArray[np.int32]) -> tuple[str, NDArray[np.int32], str]:
        """Text before, ids from the first special token to the last, text after. Only between special tokens are ids the
        same wherever the picture stands: Gemma 3's empty lines around a picture may join the prompt's own."""
        tokenizer = self.processor.tokenizer
        special = np.flatnonzero(np.isin(ids, list(tokenizer.added_tokens_decoder)))
        if not len(special):
            return "", ids, ""
        first, end = int(special[0]), int(special[-1]) + 1
        before, after = (str(tokenizer.decode(part.tolist())) for part in (ids[:first], ids[end:]))
        return before, ids[first:end], after

    def _size(
        self, made: Mapping[str, Any], ids: NDArray[np.int32], original: tuple[int, int]
    ) -> tuple[int, int]:
        """(width, height) in pixels of the whole picture as the policy sees it."""
        reader = self.processor.image_processor
        if "image_grid_thw" in made:
            patch = int(reader.patch_size)
            _, height, width = made["image_grid_thw"][0].tolist()
            return int(width) * patch, int(height) * patch
        height, width = map(int, made["pixel_values"].shape[-2:])
        # LLaVA-NeXT and OneVision fit it into their tiles, and leave the padding out again.
        if "image_sizes" in made:
            tiled = made["pixel_values"].shape[1] > 1
            box = (height, width)
            if tiled:
                box = select_best_resolution(original[::-1], reader.image_grid_pinpoints)
            factor = min(box[0] / original[1], box[1] / original[0])
            return math.ceil(original[0] * factor - 1e-6), math.ceil(original[1] * factor - 1e-6)
        columns, rows = 1, 1
        if hasattr(reader, "max_patches") and len(made["pixel_values"]) > 1:
            canvas = sys.modules[type(reader).__module__].get_optimal_tiled_canvas  # InternVL's
            columns, rows = canvas(original[::-1], (height, width), reader.min_patches, reader.max_patches)
        tags = " ".join(self.processor.tokenizer.convert_ids_to_tokens(ids[ids != self.image_id].tolist()))
        for row, column in _TILE.findall(tags):
            columns, rows = max(columns, int(column)), max(rows, int(row))
        return width * columns, height * rows

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
    def _halfway(self, keys: Sequence[str]) -> dict[str, _Towered]:
        """The tower alone. What models do after a connector (Qwen2.5-VL reorders its windows) is a permutation of its
        output rows, read off by letting it put out row numbers instead."""
        given: dict[nn.Module, Tensor] = {}

        def number(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            given[module] = args[0]
            rows = torch.arange(output[..., 0].numel(), device=output.device)
            return rows.view(*output.shape[:-1], 1)

        out: dict[str, _Towered] = {}
        for part in self._batches(keys):
            given.clear()
            hooks = [c.register_forward_hook(number) for c in self.connectors]
            try:
                numbers = self._run(part)
            except RuntimeError:  # LLaVA-NeXT adds a learned column, for which row numbers are too narrow
                numbers = []
            finally:
                for hook in hooks:
                    hook.remove()
            rows, sides = sum(map(len, numbers)), [given.get(c, torch.empty(0)) for c in self.connectors]
            shapes = {(len(side), n.shape[1]) for side in sides for n in numbers}
            if (
                len(shapes) != 1
                or shapes != {(len(sides[0]), len(sides))}
                or any(len(n) * len(sides[0]) % rows for n in numbers)
            ):
                self._splits = False  # more than a permutation: these pictures go through the tower each time
                return {}
            sizes = [len(n) * len(sides[0]) // rows for n in numbers]
            start = 0
            for key, order, *mine in zip(part, numbers, *(side.split(sizes) for side in sides), strict=True):
                out[key] = _Towered(mine, order - start)
                start += len(order)
        return out

    def _connect(self, keys: Sequence[str]) -> dict[str, Tensor]:
        ready = [self._towered[k] for k in keys]
        sizes = [len(r.order) for r in ready]
        columns = [
            connector(torch.cat([r.given[i] for r in ready])).flatten(0, -2).split(sizes)
            for i, connector in enumerate(self.connectors)
        ]
        return {
            key: torch.cat([column[r.order[:, i]] for i, column in enumerate(mine)], -1)
            for key, r, *mine in zip(keys, ready, *columns, strict=True)
        }

    def _batches(self, hashes: Sequence[str]) -> Iterator[list[str]]:
        """Pictures whose tensors can be concatenated."""
        alike: dict[tuple[Any, ...], list[str]] = {}
        for sha in hashes:
            tensors = self[sha].tensors
            shapes = [(k, tuple(tensors[k].shape[1:])) for k in sorted(tensors)]
            several = int(tensors["batch_num_images"][0]) if "batch_num_images" in tensors else 1
            alike.setdefault((several, *shapes), []).append(sha)
        for same in alike.values():
            for start in range(0, len(same), _BATCH):
                yield same[start : start + _BATCH]

    def _run(self, part: Sequence[str]) -> list[Tensor]:
        """Features of pictures that can be concatenated: [tokens, width], or with those for inner layers beside them."""
        device = next(self.model.parameters()).device
        tensors = [self[key].tensors for key in part]
        inputs = {k: torch.cat([t[k] for t in tensors]).to(device) for k in tensors[0]}
        tiles = [len(t["pixel_values"]) for t in tensors]
        alone = "batch_num_images" in inputs and len(part) == 1 and int(inputs["batch_num_images"][0]) > 1
        if alone:  # one of several, but the only one that is asked for
            inputs, tiles = {k: torch.cat([v, v]) for k, v in inputs.items()}, tiles * 2
        if "batch_num_images" in inputs and int(inputs["batch_num_images"][0]) > 1:
            inputs["batch_num_images"] = torch.tensor([len(tiles)])
        made = self.model.model.get_image_features(**inputs, return_dict=True)
        layers = [
            self._apart(s, tiles)
            for s in (made.pooler_output, *(getattr(made, "deepstack_features", ()) or ()))
        ]
        self.computed += len(part)
        return [torch.cat(one, -1) for one in list(zip(*layers, strict=True))[: len(part)]]

    def _apart(self, states: Tensor | Sequence[Tensor], tiles: Sequence[int]) -> list[Tensor]:
        """Features per picture of `tiles` tiles each, which models that do not tell pictures apart hand out in a row."""
        if isinstance(states, Tensor):
            rows = states.reshape(-1, states.shape[-1])
            states = rows.split([n * len(rows) // sum(tiles) for n in tiles])
        if len(states) != len(tiles):
            raise MediaMismatch(f"{len(tiles)} pictures went into the vision tower, {len(states)} came out")
        return [s.reshape(-1, s.shape[-1]) for s in states]


def check_counts(owner: str, placeholders: int, expected: Sequence[int], features: Sequence[int]) -> None:
    """Raises MediaMismatch naming the sample when its media tokens, `placeholders` in its ids and `expected` of each
    medium, and its media features disagree."""
    if placeholders != sum(features) or list(expected) != list(features):
        raise MediaMismatch(
            f"sample {owner!r}: the prompt has {placeholders} media tokens, its {len(features)} media stand for "
            f"{list(expected)} and give {list(features)} features; the processor and the model disagree about this sample"
        )
