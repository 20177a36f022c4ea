"""The `language` family: vision-language models of transformers, tokens as decisions.

This is the one module that knows transformers' models. It renders prompts and observations to ids, computes visual
features, lays trajectories out with a shared prefix, and scores them under the sampling rules they were drawn by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from triune.algo.types import Batch, Evaluated
from triune.core.errors import MediaMismatch, ParityError, RecipeError, WindowExceeded
from triune.core.sample import Media, Sample
from triune.core.trajectory import SamplingRule, Trajectory
from triune.envs import Observation
from triune.policy.chat import Chat
from triune.policy.logprob import chosen_logprobs
from triune.policy.media import Pictures, check_counts
from triune.policy.options import LanguageOptions
from triune.policy.packing import Rows, Tree, choose_parts, pack
from triune.rollout.conversation import Segment

_MODALITY = re.compile(r"image|img|video|vision|audio|row_\d+_col_\d+", re.IGNORECASE)
_VISION = ("vision_model", "visual", "vision_tower")
_CONNECTOR = ("connector", "multi_modal_projector", "modality_projection")
_OWN_FORWARD = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Largest gap in log-prob to the model's own forward pass, by arithmetic: rounding, not another computation."""


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
    """A vision-language policy; also the renderer and the model access of the native engine.

    `exact`: float32, so that an engine that uses these weights gives the learner's log-probs.
    """

    provides = frozenset({"entropy"})

    def __init__(self, model: Any, processor: Any, options: LanguageOptions) -> None:
        self.model, self.processor, self.options = model, processor, options
        self.tokenizer = processor.tokenizer
        self.model.eval()  # dropout would make behaviour and learner log-probs differ
        self.exact = model.dtype == torch.float32
        self.decoder = model.get_decoder()
        self.embed: nn.Module = model.get_input_embeddings()
        self.head: nn.Linear = model.get_output_embeddings()
        self.image_id = int(_first(model.config, "image_token_id", "image_token_index"))
        self.frame = options.frame
        text = model.config.get_text_config()
        self.width = int(text.hidden_size)
        limit = int(getattr(text, "max_position_embeddings", 0) or 0)
        self.window = min(options.window or limit, limit or options.window)
        if not self.window:
            raise RecipeError("the model declares no window; set policy.window")
        _check_attention(text, self.window)
        self.pad_id = int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0)
        self.stop_ids: tuple[int, ...] = self._stop_ids()
        self.banned: tuple[int, ...] = self._banned()
        self._parts, connector = _parts(model, self.decoder, self.head)
        self.pictures = Pictures(model, processor, self.image_id, connector)
        self.chat = Chat(processor, self.tokenizer.convert_ids_to_tokens(list(self.stop_ids)))
        self._prompts: dict[str, tuple[Sample, Segment]] = {}
        self._confirmed = False

    @classmethod
    def from_pretrained(cls, options: LanguageOptions) -> LanguageFamily:
        """Loads safetensors weights; raises RecipeError for a missing path, other formats, or undeclared code."""
        from triune.policy.nano import WEIGHTS

        path = str(WEIGHTS) if options.path == "nano" else options.path
        code = {"trust_remote_code": options.trust_remote_code}
        try:
            with _quiet():
                processor = AutoProcessor.from_pretrained(path, **code)
                model = AutoModelForImageTextToText.from_pretrained(
                    path,
                    # Pickled weights can run code when they are opened.
                    use_safetensors=True,
                    dtype=getattr(torch, options.dtype),
                    attn_implementation=options.attention,
                    **code,
                )
        except (OSError, ValueError, ImportError, AttributeError) as error:
            hint = ""
            if "torchvision" in str(error) or isinstance(error, AttributeError):
                hint = ". Its processor needs torchvision: pip install torchvision"
            elif not options.trust_remote_code and "trust_remote_code" in str(error):
                hint = ". Set policy.trust_remote_code only for a checkpoint whose code you have read"
            raise RecipeError(f"policy.path {options.path!r} cannot be loaded: {error}{hint}") from error
        return cls(model, processor, options)

    # -- what the policy may say -------------------------------------------------------------------------------

    def _stop_ids(self) -> tuple[int, ...]:
        declared = self.model.generation_config.eos_token_id
        ids = [declared] if isinstance(declared, int) else list(declared or [])
        if self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return tuple(sorted(set(ids)))

    def _banned(self) -> tuple[int, ...]:
        """Every modality token, padding, and the ids that are nobody's token and only round up the matrix."""
        added = self.tokenizer.added_tokens_decoder.items()
        tags = {
            i for i, t in added if _MODALITY.search(t.content) and (t.special or t.content.startswith("<"))
        }
        config = self.model.config
        named = (
            getattr(config, n) for n in config.to_dict() if n.endswith("_token_id") and _MODALITY.search(n)
        )
        tags |= {int(i) for i in named if isinstance(i, int)}
        tags |= {self.image_id, self.pad_id} - set(self.stop_ids)
        tags |= set(range(self.head.weight.shape[0])) - set(self.tokenizer.get_vocab().values())
        return tuple(sorted(tags))

    # -- rendering ---------------------------------------------------------------------------------------------

    def prompt(self, sample: Sample) -> Segment:
        """The prompt's ids with placeholders expanded, and its pictures. Errors name the sample."""
        known = self._prompts.get(sample.id)
        if known is not None and known[0] is sample:
            return known[1]
        segment = self._segment(self.chat.prompt(sample.messages), sample.media, sample.id)
        if len(segment.ids) >= self.window:
            raise WindowExceeded(
                f"sample {sample.id!r}: the prompt has {len(segment.ids)} tokens and the window {self.window}; "
                "shorten it, raise policy.window or drop the row. Nothing is truncated."
            )
        self._prompts[sample.id] = (sample, segment)
        return segment

    def observation(self, observation: Observation, owner: str) -> Segment:
        """What an observation adds after a turn, and the start of the policy's next one. Errors name the sample."""
        media = [block for block in observation.blocks if isinstance(block, Media)]
        return self._segment(self.chat.observation(observation.blocks), media, owner)

    def _segment(self, text: str, media: Sequence[Media], owner: str) -> Segment:
        ready = [self.pictures.add(medium, owner) for medium in media]
        try:
            ids, pictured, starts = self.chat.ids(text, [r.ids for r in ready])
        except MediaMismatch as error:
            raise MediaMismatch(f"sample {owner!r}: {error}") from error
        return Segment(ids, pictured, tuple(r.seen for r in ready), starts)

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text with special tokens kept: tags may be special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    # -- the family protocol -----------------------------------------------------------------------------------

    def modules(self) -> Mapping[str, nn.Module]:
        """vision (the tower), connector, language (decoder and head): disjoint, and together every parameter."""
        return self._parts

    def check(self, sample: Sample) -> None:
        """See Family. Also compares, once, with the model's own forward pass: raises ParityError when this family
        computes something else (an architecture with more inputs than embeddings, positions and a causal mask)."""
        segment = self.prompt(sample)
        hashes = [s.sha256 for s in segment.seen]
        with torch.no_grad():
            self.inputs(torch.from_numpy(segment.ids.astype(np.int64))[None], [hashes], [sample.id])
            if hashes and not self._confirmed:
                self._confirm(sample, segment)
                self._confirmed = True

    def _confirm(self, sample: Sample, segment: Segment) -> None:
        images = [medium.image() for medium in sample.media]
        text = self.chat.prompt(sample.messages)
        given = self.processor(text=[text], images=[images], return_tensors="pt", add_special_tokens=False)
        tree = Tree(
            segment.ids, (), self.positions(segment.ids, [s.sha256 for s in segment.seen], sample.id), ()
        )
        rows = pack([tree], self.pad_id).to(self.device)
        embeds = self.inputs(rows.ids, [[s.sha256 for s in segment.seen]], [sample.id])
        mine = self.head(self.forward(embeds, rows.positions, rows.mask(embeds.dtype))[0, -1])
        gap = float("inf")
        if np.array_equal(given["input_ids"][0].numpy(), segment.ids):
            own = self.model(**given.to(self.device), logits_to_keep=1).logits[0, -1]
            gap = float((own.float().log_softmax(-1) - mine.float().log_softmax(-1)).abs().max())
        if not gap <= _OWN_FORWARD[self.model.dtype]:
            raise ParityError(
                f"sample {sample.id!r}: log-probs differ by {gap:.2g} from the own forward pass of "
                f"{type(self.model).__name__}: this architecture needs inputs that policy.kind language does not give it"
            )

    def begin_step(self, samples: Sequence[Sample]) -> None:
        self._prompts.clear()
        hashes = [m.sha256 for sample in samples for m in sample.media]
        if _trains(self._parts["vision"]):
            self.pictures.begin_step(hashes, "tower")
        else:
            self.pictures.begin_step(hashes, "connector" if _trains(self._parts["connector"]) else "nothing")

    def cost(self, trajectory: Trajectory) -> int:
        return len(trajectory.payload.arrays["ids"])

    def pack(self, trajectories: Sequence[Trajectory]) -> Batch:
        """Rows that share each group's prompt; decisions stay in the order of the trajectories."""
        shared: dict[tuple[bytes, tuple[str, ...]], list[int]] = {}
        for index, trajectory in enumerate(trajectories):
            ids, media = _prefix(trajectory)
            shared.setdefault((ids.tobytes(), media), []).append(index)
        trees: list[Tree] = []
        members: list[list[int]] = []
        for indices in shared.values():
            prefix, _ = _prefix(trajectories[indices[0]])
            lengths = [len(trajectories[i].payload.arrays["ids"]) - len(prefix) for i in indices]
            parts = {"shared": 1, "padded": len(indices)}.get(self.options.layout) or choose_parts(
                len(prefix), lengths, self.width
            )
            for part in np.array_split(np.asarray(indices), parts):
                trees.append(self._tree([trajectories[i] for i in part]))
                members.append([int(i) for i in part])
        return self._layout(trajectories, pack(trees, self.pad_id), trees, members)

    def _tree(self, trajectories: Sequence[Trajectory]) -> Tree:
        prefix, media = _prefix(trajectories[0])
        size, places = len(prefix), self.positions(prefix, media, trajectories[0].sample)
        branches, along = [], []
        for trajectory in trajectories:
            ids = np.asarray(trajectory.payload.arrays["ids"], np.int32)
            branches.append(ids[size:])
            if len(trajectory.payload.media) == len(media):
                along.append(following(places, len(ids) - size))
            else:
                along.append(self.positions(ids, trajectory.payload.media, trajectory.sample)[:, size:])
        return Tree(prefix, tuple(branches), places, tuple(along))

    def _layout(
        self, trajectories: Sequence[Trajectory], rows: Rows, trees: list[Tree], members: list[list[int]]
    ) -> Batch:
        rules, number = _distinct(trajectories)
        where: dict[int, list[NDArray[np.int64]]] = {}
        media: list[list[str]] = []
        for row, (tree, mine) in enumerate(zip(trees, members, strict=True)):
            size = len(tree.prefix)
            media.append(list(_prefix(trajectories[mine[0]])[1]))
            common = len(media[row])
            for start, index in zip(rows.start[row], mine, strict=True):
                trajectory = trajectories[index]
                arrays = trajectory.payload.arrays
                media[row] += trajectory.payload.media[common:]
                at = arrays["at"].astype(np.int64)
                # The token before a branch's first one is the last of the prefix, wherever the branch starts.
                column = np.where(at == size, size - 1, start + at - size - 1)
                segment = (
                    np.searchsorted([s for s, _ in trajectory.rules], np.arange(len(at)), side="right") - 1
                )
                rule = np.asarray([number[id(r)] for _, r in trajectory.rules])[segment]
                where[index] = [np.full(len(at), row), column, arrays["ids"][at].astype(np.int64), rule]
        flat = [
            torch.from_numpy(np.concatenate([where[i][k] for i in range(len(trajectories))]))
            for k in range(4)
        ]
        owners = [trajectories[mine[0]].sample for mine in members]
        row_of, column_of, ids, rule_of = flat
        return Batch.of(trajectories, Layout(rows, media, owners, row_of, column_of, ids, rule_of, rules))

    # -- the model ---------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def positions(self, ids: NDArray[np.int32], media: Sequence[str], owner: str) -> NDArray[np.int64]:
        """Positions along one root-to-leaf path, [axes, T]: 0..T-1, or the model's multimodal rotary positions.

        Raises MediaMismatch naming the sample `owner` when the placeholders are not its pictures'.
        """
        tokens = [self.pictures[sha].tokens for sha in media]
        check_counts(owner, int((ids == self.image_id).sum()), tokens, tokens)
        index = getattr(self.model.model, "get_rope_index", None)
        if index is None:
            return np.arange(len(ids))[None]
        grids = [self.pictures[sha].tensors["image_grid_thw"] for sha in media]
        places, _ = index(
            input_ids=torch.from_numpy(ids.astype(np.int64))[None],
            mm_token_type_ids=torch.from_numpy((ids == self.image_id).astype(np.int64))[None],
            image_grid_thw=torch.cat(grids) if grids else None,
        )
        return np.asarray(places[:, 0].numpy(), np.int64)

    def inputs(self, ids: Tensor, media: Sequence[Sequence[str]], owners: Sequence[str]) -> Tensor:
        """Input embeddings [R, L, width] with every row's visual features in place; checks each row's counts first."""
        features = self.pictures.features([sha for row in media for sha in row])
        here = ids.to(self.device) == self.image_id
        for owner, placeholders, hashes in zip(owners, here.sum(1).tolist(), media, strict=True):
            expected = [self.pictures[h].tokens for h in hashes]
            check_counts(owner, placeholders, expected, [len(features[h]) for h in hashes])
        embeds: Tensor = self.embed(ids.to(self.device))
        chosen = [features[h] for row in media for h in row]
        if chosen:
            embeds = embeds.masked_scatter(here[..., None], torch.cat(chosen).to(embeds.dtype))
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

    def evaluate(
        self, batch: Batch, *, want: frozenset[str] = frozenset(), view: str = "current"
    ) -> Evaluated:
        """See Family. Entropy comes with every view, because it is watched; with gradient only if it is wanted."""
        layout: Layout = batch.payload
        rows = layout.rows.to(self.device)
        embeds = self.inputs(rows.ids, layout.media, layout.owners)
        hidden = self.forward(embeds, rows.positions, rows.mask(embeds.dtype))
        picked = hidden[layout.row.to(self.device), layout.column.to(self.device)]
        ids = layout.ids.to(self.device)
        logp, entropy = picked.new_zeros((2, len(ids)), dtype=torch.float32).unbind()
        for number, rule in enumerate(layout.rules):
            # Mostly one rule for all.
            mine = (layout.rule == number).nonzero()[:, 0].to(self.device)
            scored, spread = chosen_logprobs(
                picked[mine], self.head, ids[mine], rule, entropy="entropy" in want
            )
            logp, entropy = logp.index_copy(0, mine, scored), entropy.index_copy(0, mine, spread)
        return Evaluated(logp=logp, entropy=entropy)

    def save(self, path: Path) -> None:
        with _quiet():
            self.model.save_pretrained(path)
            self.processor.save_pretrained(path)

    def load(self, path: Path) -> None:
        """Reads weights of the same architecture into the live model, bit for bit; features are forgotten."""
        with _quiet():
            fresh = type(self.model).from_pretrained(path, use_safetensors=True, dtype=self.model.dtype)
        self.model.load_state_dict(fresh.state_dict())
        self.pictures.forget_features()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars: checkpoints are written while a run draws its own display."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def following(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Positions [axes, count] of text after a prefix at `places` [axes, P]: from its largest, one by one on every axis."""
    first = int(places.max()) + 1 if places.size else 0
    return np.tile(np.arange(first, first + count), (places.shape[0], 1))


def _prefix(trajectory: Trajectory) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """The ids before the first decision and the pictures among them: what the rollouts of a prompt have in common."""
    arrays = trajectory.payload.arrays
    end = int(arrays["at"][0]) if len(arrays["at"]) else len(arrays["ids"])
    return np.asarray(arrays["ids"][:end], np.int32), trajectory.payload.media[
        : int((arrays["media_at"] < end).sum())
    ]


def _distinct(trajectories: Sequence[Trajectory]) -> tuple[list[SamplingRule], dict[int, int]]:
    """The different rules, and the number of each rule object's. By identity first: a step's trajectories share one
    object, and telling two rules apart means comparing their JSON."""
    rules: list[SamplingRule] = []
    number: dict[int, int] = {}
    for trajectory in trajectories:
        for _, rule in trajectory.rules:
            if id(rule) not in number:
                if rule not in rules:
                    rules.append(rule)
                number[id(rule)] = rules.index(rule)
    return rules, number


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _parts(model: Any, decoder: nn.Module, head: nn.Module) -> tuple[dict[str, nn.Module], nn.Module | None]:
    """Disjoint parts that together hold every parameter, and the connector as the model calls it (None: unknown)."""
    inner = model.model
    tower = next((m for n in _VISION if isinstance(m := getattr(inner, n, None), nn.Module)), None)
    if tower is None:
        raise RecipeError(
            f"{type(model).__name__} has no vision tower by a name that is known here ({', '.join(_VISION)})"
        )
    connector = next((m for n in _CONNECTOR if isinstance(m := getattr(inner, n, None), nn.Module)), None)
    if connector is None and isinstance(inside := getattr(tower, "merger", None), nn.Module):
        connector = inside
    vision: nn.Module = tower
    others = [m for m in tower.children() if m is not connector]
    if len(others) < len(list(tower.children())):
        vision = nn.ModuleList([*others, nn.ParameterList(tower.parameters(recurse=False))])
    language = nn.ModuleList([decoder, head])
    held = {
        id(p) for part in (vision, language, *([connector] if connector else [])) for p in part.parameters()
    }
    rest = nn.ParameterList(
        [p for p in model.parameters() if id(p) not in held]
    )  # LLaVA-NeXT's image_newline
    between = nn.ModuleList([*([connector] if connector else []), rest])
    return {"vision": vision, "connector": between, "language": language}, connector


def _check_attention(text: Any, window: int) -> None:
    """Packed rows and their mask need layers that attend to everything before a token."""
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    sliding = getattr(text, "sliding_window", None)
    used = getattr(text, "use_sliding_window", True) and sliding is not None and sliding < window
    if kinds - {"full_attention", "sliding_attention"} or used:
        raise RecipeError(
            f"this model's layers ({', '.join(sorted(kinds))}; sliding window {sliding}) do not attend to everything before "
            f"a token: only full attention is supported, or a sliding window of at least policy.window ({window})"
        )


def _first(config: Any, *names: str) -> Any:
    for name in names:
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    raise RecipeError(
        f"{type(config).__name__} declares no image token ({' or '.join(names)}): not a model that sees"
    )
