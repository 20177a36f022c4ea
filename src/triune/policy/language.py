"""The `language` family: vision-language models of transformers, tokens as decisions.

This is the one module that knows transformers. It renders prompts and observations to ids, computes visual features,
lays trajectories out with a shared prefix, and scores them under the sampling rules they were drawn by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from triune.algo.types import Batch, Evaluated
from triune.core.errors import DataError, RecipeError, WindowExceeded
from triune.core.sample import Media, Sample, Text
from triune.core.trajectory import SamplingRule, Trajectory
from triune.core.verdict import Seen
from triune.policy.logprob import chosen_logprobs
from triune.policy.media import Pictures, check_counts
from triune.policy.options import LanguageOptions
from triune.policy.packing import Rows, Tree, choose_parts, pack
from triune.rollout.episode import TOOL_IMAGE, TOOL_TEXT, Observation

_MODALITY = re.compile(r"image|img|video|vision|audio|row_\d+_col_\d+", re.IGNORECASE)
_VISION = ("vision_model", "visual", "vision_tower")
_CONNECTOR = ("connector", "multi_modal_projector", "modality_projection")


@dataclass(slots=True)
class Layout:
    """The family's payload of a batch: packed rows, the pictures of each row in column order, and for every decision
    the row and column whose hidden state predicts it, its id, and the index of its sampling rule."""

    rows: Rows
    media: list[list[str]]
    owners: list[str]
    row: Tensor
    column: Tensor
    ids: Tensor
    rule: Tensor
    rules: list[SamplingRule]


class LanguageFamily:
    """A vision-language policy; also the renderer and the model access of the native engine."""

    provides = frozenset({"entropy"})

    def __init__(self, model: Any, processor: Any, options: LanguageOptions) -> None:
        self.model, self.processor, self.options = model, processor, options
        self.tokenizer = processor.tokenizer
        self.model.eval()  # dropout would make behaviour and learner log-probs differ
        self.decoder = model.get_decoder()
        self.embed: nn.Module = model.get_input_embeddings()
        self.head: nn.Module = model.get_output_embeddings()
        self.image_id = int(_first(model.config, "image_token_id", "image_token_index"))
        self.frame = options.frame
        text = model.config.get_text_config()
        self.width = int(text.hidden_size)
        limit = int(getattr(text, "max_position_embeddings", 0) or 0)
        self.window = min(v for v in (options.window or limit, limit or options.window) if v) if limit else options.window
        if not self.window:
            raise RecipeError("the model declares no window; set policy.window")
        self.pad_id = int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0)
        self.stop_ids: tuple[int, ...] = self._stop_ids()
        self.banned: tuple[int, ...] = self._banned()
        self.pictures = Pictures(model, processor)
        self._prompts: dict[tuple[str, ...], tuple[NDArray[np.int32], tuple[Seen, ...]]] = {}

    @classmethod
    def from_pretrained(cls, options: LanguageOptions) -> LanguageFamily:
        """Loads safetensors weights; raises RecipeError for a missing path, other formats, or undeclared code."""
        from triune.policy.nano import WEIGHTS

        path = str(WEIGHTS) if options.path == "nano" else options.path
        kwargs = {"trust_remote_code": options.trust_remote_code}
        try:
            processor = AutoProcessor.from_pretrained(path, use_fast=False, **kwargs)
            model = AutoModelForImageTextToText.from_pretrained(
                path, use_safetensors=True, dtype=getattr(torch, options.dtype), attn_implementation=options.attention,
                **kwargs,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise RecipeError(f"policy.path {options.path!r} cannot be loaded: {error}") from error
        return cls(model, processor, options)

    # -- what the policy may say -------------------------------------------------------------------------------

    def _stop_ids(self) -> tuple[int, ...]:
        declared = self.model.generation_config.eos_token_id
        ids = [declared] if isinstance(declared, int) else list(declared or [])
        if self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return tuple(sorted(set(ids)))

    def _banned(self) -> tuple[int, ...]:
        """Every modality token, padding, and the ids beyond the tokenizer that only round up the matrix."""
        special = {
            index
            for index, token in self.tokenizer.added_tokens_decoder.items()
            if token.special and _MODALITY.search(token.content)
        }
        config = self.model.config
        named = (getattr(config, n, None) for n in dir(config) if n.endswith("_token_id") and _MODALITY.search(n))
        special |= {int(i) for i in named if isinstance(i, int)}
        special |= {self.image_id, self.pad_id} - set(self.stop_ids)
        special |= set(range(len(self.tokenizer), int(self.head.weight.shape[0])))  # type: ignore[arg-type, union-attr]
        return tuple(sorted(special))

    # -- rendering ---------------------------------------------------------------------------------------------

    def prompt(self, sample: Sample) -> tuple[NDArray[np.int32], tuple[Seen, ...]]:
        """Prompt ids with placeholders expanded, and the pictures as seen. Errors name the sample."""
        key = _prompt_key(sample)
        if key in self._prompts:
            return self._prompts[key]
        for media in sample.media:
            if media.kind != "image":
                raise DataError(f"sample {sample.id!r}: this policy reads images, not {media.kind}")
            self.pictures.add(media, sample.id)
        messages = [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": b.text} if isinstance(b, Text) else {"type": "image"} for b in message.content
                ],
            }
            for message in sample.messages
        ]
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self._tokenise(text, [m.image() for m in sample.media])
        if len(ids) >= self.window:
            raise WindowExceeded(
                f"sample {sample.id!r}: the prompt has {len(ids)} tokens and the window {self.window}; "
                "shorten it, raise policy.window or drop the row. Nothing is truncated."
            )
        seen = tuple(self._seen(media) for media in sample.media)
        made = self._prompts[key] = (np.asarray(ids, np.int32), seen)
        return made

    def _tokenise(self, text: str, images: list[Any]) -> list[int]:
        kwargs = {"images": [images]} if images else {}
        return list(self.processor(text=[text], add_special_tokens=False, **kwargs)["input_ids"][0])

    def _seen(self, media: Media) -> Seen:
        pixels = self.pictures.pixels(media.sha256)
        grid = pixels.get("image_grid_thw")
        if grid is not None:
            patch = int(self.processor.image_processor.patch_size)
            height, width = int(grid[0, 1]) * patch, int(grid[0, 2]) * patch
        else:
            height, width = pixels["pixel_values"].shape[-2:]
        return Seen(sha256=media.sha256, original=media.size, processed=(int(width), int(height)))

    def observation(self, observation: Observation, closed: bool) -> tuple[list[int], list[int], tuple[Seen, ...]]:
        """The ids that a tool message adds after a turn, their origins, and its pictures.

        Rendered as the difference between a dialogue with and without it, cut at the last end-of-turn token that the
        policy itself sampled; raises DataError when the template rewrites history, so that there is no difference.
        """
        media = [block for block in observation.blocks if isinstance(block, Media)]
        content = [{"type": "text", "text": b} if isinstance(b, str) else {"type": "image"} for b in observation.blocks]
        before = [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "y"}]},
        ]
        render = self.processor.apply_chat_template
        old = render(before, tokenize=False, add_generation_prompt=False)
        new = render([*before, {"role": "tool", "content": content}], tokenize=False, add_generation_prompt=True)
        if not new.startswith(old):
            raise DataError("the chat template rewrites earlier turns; use one that keeps them")
        ends = [token for i in self.stop_ids if (token := self.tokenizer.convert_ids_to_tokens(i)) in old]
        cut = max((old.rfind(token) + len(token) for token in ends), default=len(old)) if closed else old.rfind("y") + 1
        for medium in media:
            self.pictures.add(medium, "observation")
        ids = self._tokenise(new[cut:], [medium.image() for medium in media])
        origin = [TOOL_IMAGE if i == self.image_id else TOOL_TEXT for i in ids]
        return ids, origin, tuple(self._seen(medium) for medium in media)

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text with special tokens kept: tags may be special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    # -- the family protocol -----------------------------------------------------------------------------------

    def modules(self) -> Mapping[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        for name, candidates in (("vision", _VISION), ("connector", _CONNECTOR)):
            for candidate in candidates:
                if isinstance(module := getattr(self.model.model, candidate, None), nn.Module):
                    found[name] = module
        merger = getattr(found.get("vision"), "merger", None)
        if "connector" not in found and isinstance(merger, nn.Module):
            found["connector"] = merger
        found["language"] = nn.ModuleList([self.decoder, self.head])
        return found

    def check(self, sample: Sample) -> None:
        ids, seen = self.prompt(sample)
        features = self.pictures.features([s.sha256 for s in seen])
        check_counts(sample.id, int((ids == self.image_id).sum()), [len(features[s.sha256]) for s in seen])

    def begin_step(self, samples: Sequence[Sample]) -> None:
        modules = self.modules()
        vision = [p for name in ("vision", "connector") if name in modules for p in modules[name].parameters()]
        self.pictures.frozen = not any(p.requires_grad for p in vision)
        wanted = {_prompt_key(sample) for sample in samples}
        self._prompts = {k: v for k, v in self._prompts.items() if k in wanted}
        self.pictures.keep([m.sha256 for sample in samples for m in sample.media])

    def cost(self, trajectory: Trajectory) -> int:
        return len(trajectory.payload.arrays["ids"])

    def pack(self, trajectories: Sequence[Trajectory]) -> Batch:
        """Rows that share each group's prompt; decisions stay in the order of the trajectories."""
        shared: dict[tuple[bytes, tuple[str, ...]], list[int]] = {}
        for index, trajectory in enumerate(trajectories):
            prefix = self._prefix(trajectory)
            shared.setdefault((prefix.tobytes(), self._prefix_media(trajectory)), []).append(index)
        trees: list[Tree] = []
        members: list[list[int]] = []
        for indices in shared.values():
            prefix = self._prefix(trajectories[indices[0]])
            lengths = [len(trajectories[i].payload.arrays["ids"]) - len(prefix) for i in indices]
            parts = {"shared": 1, "padded": len(indices)}.get(self.options.layout) or choose_parts(
                len(prefix), lengths, self.width
            )
            for part in np.array_split(np.asarray(indices), parts):
                trees.append(self._tree([trajectories[i] for i in part], len(prefix)))
                members.append([int(i) for i in part])
        rows = pack(trees, self.pad_id)
        return self._layout(trajectories, rows, trees, members)

    def _layout(
        self, trajectories: Sequence[Trajectory], rows: Rows, trees: list[Tree], members: list[list[int]]
    ) -> Batch:
        rules: list[SamplingRule] = list(dict.fromkeys(r for t in trajectories for _, r in t.rules))
        where: dict[int, tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = {}
        media: list[list[str]] = []
        for row, (tree, mine) in enumerate(zip(trees, members, strict=True)):
            size = len(tree.prefix)
            media.append(list(self._prefix_media(trajectories[mine[0]])))
            for start, index in zip(rows.start[row], mine, strict=True):
                trajectory = trajectories[index]
                arrays = trajectory.payload.arrays
                media[row] += trajectory.payload.media[len(self._prefix_media(trajectory)) :]
                at = arrays["at"].astype(np.int64)
                # The token before a branch's first one is the last of the prefix, wherever the branch starts.
                column = np.where(at == size, size - 1, start + at - size - 1)
                segment = np.searchsorted([s for s, _ in trajectory.rules], np.arange(len(at)), side="right") - 1
                rule = np.asarray([rules.index(r) for _, r in trajectory.rules])[segment]
                where[index] = (np.full(len(at), row), column, arrays["ids"][at].astype(np.int64), rule)
        flat = [torch.from_numpy(np.concatenate([where[i][k] for i in range(len(trajectories))])) for k in range(4)]
        owners = [trajectories[mine[0]].sample for mine in members]
        return Batch.of(trajectories, Layout(rows, media, owners, *flat, rules))

    def _prefix(self, trajectory: Trajectory) -> NDArray[np.int32]:
        """The ids before the first decision: what the rollouts of a prompt have in common."""
        arrays = trajectory.payload.arrays
        end = int(arrays["at"][0]) if len(arrays["at"]) else len(arrays["ids"])
        return np.asarray(arrays["ids"][:end], np.int32)

    def _prefix_media(self, trajectory: Trajectory) -> tuple[str, ...]:
        origin = trajectory.payload.arrays["origin"]
        observed = int(np.sum((origin[1:] == TOOL_IMAGE) & (origin[:-1] != TOOL_IMAGE)))
        media = trajectory.payload.media
        return media[: len(media) - observed]

    def _tree(self, trajectories: Sequence[Trajectory], size: int) -> Tree:
        branches, places = [], []
        for trajectory in trajectories:
            ids = np.asarray(trajectory.payload.arrays["ids"], np.int32)
            along = self.positions(ids, trajectory.payload.media)
            branches.append(ids[size:])
            places.append(along[:, size:])
        prefix = self._prefix(trajectories[0])
        return Tree(prefix, tuple(branches), self.positions(prefix, self._prefix_media(trajectories[0])), tuple(places))

    def positions(self, ids: NDArray[np.int32], media: Sequence[str]) -> NDArray[np.int64]:
        """Positions along one root-to-leaf path, [axes, T]: 0..T-1, or the model's multimodal rotary positions."""
        index = getattr(self.model.model, "get_rope_index", None)
        if index is None:
            return np.arange(len(ids))[None]
        grids = [self.pictures.pixels(sha)["image_grid_thw"] for sha in media]
        types = torch.from_numpy((ids == self.image_id).astype(np.int64))[None]
        places, _ = index(
            input_ids=torch.from_numpy(ids.astype(np.int64))[None],
            mm_token_type_ids=types,
            image_grid_thw=torch.cat(grids) if grids else None,
        )
        return np.asarray(places[:, 0].numpy(), np.int64)

    def inputs(self, ids: Tensor, media: Sequence[Sequence[str]], owners: Sequence[str]) -> Tensor:
        """Input embeddings [R, L, width] with every row's visual features in place; checks each row's counts first."""
        features = self.pictures.features([sha for row in media for sha in row])
        for row, hashes in enumerate(media):
            placeholders = int((ids[row] == self.image_id).sum())
            check_counts(owners[row], placeholders, [len(features[h]) for h in hashes])
        embeds: Tensor = self.embed(ids)
        chosen = [features[h] for row in media for h in row]
        if chosen:
            embeds = embeds.masked_scatter((ids == self.image_id)[..., None], torch.cat(chosen).to(embeds.dtype))
        return embeds

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor | None, cache: Any = None) -> Tensor:
        """Hidden states [R, L, width] of the language model; `positions` i64[axes, R, L]."""
        places = positions[0] if positions.shape[0] == 1 else positions
        out = self.decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def evaluate(self, batch: Batch, *, want: frozenset[str] = frozenset(), view: str = "current") -> Evaluated:
        layout: Layout = batch.payload
        device = next(self.model.parameters()).device
        embeds = self.inputs(layout.rows.ids.to(device), layout.media, layout.owners)
        hidden = self.forward(embeds, layout.rows.positions.to(device), layout.rows.mask(embeds.dtype).to(device))
        picked = hidden[layout.row.to(device), layout.column.to(device)]
        ids = layout.ids.to(device)
        logp, entropy = picked.new_zeros(len(ids), dtype=torch.float32), picked.new_zeros(len(ids), dtype=torch.float32)
        for number, rule in enumerate(layout.rules):
            # Mostly one rule for all; a mask per rule otherwise.
            mine = (layout.rule == number).nonzero()[:, 0].to(device)
            scored, spread = chosen_logprobs(picked[mine], self.head, ids[mine], rule)
            logp, entropy = logp.index_copy(0, mine, scored), entropy.index_copy(0, mine, spread)
        return Evaluated(logp=logp, entropy=entropy)

    def save(self, path: Path) -> None:
        self.model.save_pretrained(path, safe_serialization=True)
        self.processor.save_pretrained(path)

    def load(self, path: Path) -> None:
        """Reads weights of the same architecture into the live model, bit for bit; features are forgotten."""
        fresh = type(self.model).from_pretrained(path, use_safetensors=True, dtype=self.model.dtype)
        self.model.load_state_dict(fresh.state_dict())
        self.pictures.forget_features()


def _prompt_key(sample: Sample) -> tuple[str, ...]:
    """A sample may come back with other pictures (a blind evaluation): the id alone does not name its prompt."""
    return (sample.id, *(media.sha256 for media in sample.media))


def _first(config: Any, *names: str) -> Any:
    for name in names:
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    raise RecipeError(f"{type(config).__name__} declares no image token ({' or '.join(names)}): not a model that sees")

