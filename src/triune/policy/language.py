"""The `language` family: vision-language models of transformers, tokens as decisions.

With `vlm.py` this is what knows transformers' models. It renders prompts and observations to ids, computes visual
features, lays trajectories out with a shared prefix, and scores them under the sampling rules they were drawn by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triune.algo.options import ViewOptions
from triune.algo.types import Batch, Evaluated
from triune.algo.views.corrupted import CorruptedPictures
from triune.algo.views.frozen import FrozenPolicy
from triune.core.errors import MediaMismatch, ParityError, RecipeError, WindowExceeded
from triune.core.sample import Media, Sample
from triune.core.trajectory import SamplingRule, Trajectory
from triune.envs import Observation
from triune.policy import attention, vlm
from triune.policy.chat import Chat
from triune.policy.corrupted import CorruptedView
from triune.policy.critic import FILE as CRITIC_FILE
from triune.policy.critic import Critic
from triune.policy.frozen import FrozenCopy, frozen
from triune.policy.layout import Layout, Level, lay_out, weigh
from triune.policy.logprob import chosen_logprobs, collisions, rule_logprobs
from triune.policy.masks import Inputs, masks
from triune.policy.media import Pictures, check_counts
from triune.policy.options import LanguageOptions
from triune.policy.packing import Path as Track
from triune.policy.packing import alone, pack, trunk
from triune.policy.views import View, undeclared
from triune.rollout.conversation import Segment

if TYPE_CHECKING:
    from triune.policy.lora import Lora

_OWN_FORWARD = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest mean gap in log-prob to the model's own forward pass, by arithmetic: rounding, not another computation."""


class LanguageFamily:
    """A vision-language policy; also the renderer and the model access of the native engine.

    `exact`: float32, so that an engine that uses these weights gives the learner's log-probs.
    """

    provides = frozenset({"entropy", "distribution", "collision"})
    views = LanguageOptions.views
    lora: Lora | None = None
    critic: Critic | None = None

    def __init__(self, model: Any, processor: Any, options: LanguageOptions) -> None:
        self.model, self.processor, self.options = model, processor, options
        self.tokenizer = processor.tokenizer
        self.model.eval()  # dropout would make behaviour and learner log-probs differ
        self.exact = model.dtype == torch.float32
        self.decoder = model.get_decoder()
        self.embed: nn.Module = model.get_input_embeddings()
        self.head: nn.Linear = model.get_output_embeddings()
        self.image_id = vlm.image_id(model.config)
        self.frame = vlm.frame(model.config.model_type, options.frame)
        self.width = int(model.config.get_text_config().hidden_size)
        self.window = vlm.window(model, options.window)
        self.attends = vlm.attends(model, self.window)
        self.packs = self.attends.packs
        self.pad_id = int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0)
        stops = vlm.stop_ids(model, self.tokenizer)
        self.chat = Chat(processor, self.tokenizer.convert_ids_to_tokens(list(stops)))
        self.stop_ids = stops = tuple(sorted({*stops, *filter(None, [self.chat.turn_end()])}))
        self.chat.stops = tuple(self.tokenizer.convert_ids_to_tokens(list(stops)))
        self.banned = vlm.unsayable(model, self.tokenizer, self.pad_id)
        if options.lora is not None:
            self.lora = vlm.adapters(model, options)
        if options.critic is not None:
            self.critic = Critic(self.width, options.critic).to(model.device)
            self.provides = self.provides | {"value"}
        self._parts, connectors = vlm.parts(model)
        self.pictures = Pictures(model, processor, self.image_id, connectors)
        self._prompts: dict[str, tuple[Sample, Segment]] = {}
        self._declared: dict[str, tuple[ViewOptions, View]] = {}
        # By observations of this step: to whose rollouts.
        self.shown: dict[tuple[str, str], tuple[str, Media]] = {}
        self._confirmed = False
        plain = options.attention == "sdpa" and self.attends == vlm.Attends()
        self._tree = plain and attention.install(self.decoder, self._tree_agrees)

    @property
    def remarks(self) -> list[str]:
        """What a run should say of its policy before it starts."""
        chosen = "policy.frame" if self.options.frame != "auto" else f"of {self.model.config.model_type}"
        said = [f"boxes are read in the frame {self.frame} ({chosen})"]
        if not self.packs:
            said.append(f"every rollout is trained in a row of its own, padded: {self.attends.why}")
        if self.critic is not None and self.critic.fresh:
            said.append(
                "the critic starts at 0 everywhere: let it learn alone for some steps, at a rate of its own"
            )
        return said

    @classmethod
    def from_pretrained(cls, options: LanguageOptions) -> LanguageFamily:
        """Raises RecipeError for a missing path, weights that are not safetensors, or undeclared code."""
        options, folder = vlm.unfold(options)
        family = cls(*vlm.load(options), options)
        if folder is not None:
            family._read(folder)
        start = folder or Path(vlm.where(options))
        if family.critic is not None and (start / CRITIC_FILE).is_file():
            family.critic.load(start)
        return family

    # -- rendering ---------------------------------------------------------------------------------------------

    def prompt(self, sample: Sample) -> Segment:
        """The prompt's ids with placeholders expanded, and its pictures. Errors name the sample."""
        known = self._prompts.get(sample.id)
        if known is not None and known[0] is sample:
            return known[1]
        self.pictures.announce(sample)
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
        self.shown |= {(owner, medium.sha256): (owner, medium) for medium in media}
        return self._segment(self.chat.observation(observation.blocks), media, owner)

    def _segment(self, text: str, media: Sequence[Media], owner: str) -> Segment:
        ready = [self.pictures.add(medium, owner) for medium in media]
        try:
            ids, pictured, starts = self.chat.ids(text, [r.ids for r in ready], [r.around for r in ready])
        except MediaMismatch as error:
            raise MediaMismatch(f"sample {owner!r}: {error}") from error
        return Segment(ids, pictured, tuple(r.seen for r in ready), starts)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself, for people to look at: U+FFFD for a part of a character, the token's name where
        it has no text."""
        names = self.tokenizer.convert_ids_to_tokens(list(ids))
        # Tokenizers that mark the start of a word leave out the space before a text's first one.
        return [
            f" {text}"
            if str(name).startswith("\N{LOWER ONE EIGHTH BLOCK}") and text[:1] != " "
            else text or str(name)
            for name, text in zip(names, (self.decode([id]) for id in ids), strict=True)
        ]

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text with special tokens kept: tags may be special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    # -- the family protocol -----------------------------------------------------------------------------------

    def modules(self) -> Mapping[str, nn.Module]:
        """vision (the tower), connector, language (decoder and head), and critic where there is one: disjoint, and together
        every parameter that can train. With adapters the first three are theirs alone; the base is no part of it, and is
        not frozen by a recipe."""
        parts = self.lora.modules if self.lora else self._parts
        return parts if self.critic is None else {**parts, "critic": self.critic}

    @property
    def reads(self) -> Level | None:
        """Where the critic reads values; None: there is none. An episode that a limit cut then keeps its last observation."""
        return self.critic.options.level if self.critic is not None else None

    def declare(self, name: str, view: ViewOptions) -> View:
        """See Family. Raises RecipeError for a teacher that cannot be loaded, or that reads other ids."""
        known = self._declared.get(name)
        if known is None or known[0] != view:
            made: View
            if isinstance(view, CorruptedPictures):
                made = CorruptedView(self, name, view)
            else:
                assert isinstance(view, FrozenPolicy)
                made = frozen(self, name, view, known[1] if known else None)
            self._declared[name] = view, made
        return self._declared[name][1]

    def other(self, name: str) -> FrozenCopy:
        """A declared view that can speak in the policy's place. Raises RecipeError for one that cannot."""
        view = self._declared[name][1] if name in self._declared else None
        if not isinstance(view, FrozenCopy):
            raise RecipeError(
                f"algo.views.{name} cannot answer prompts: that takes a view of kind frozen without a path"
            )
        return view

    def check(self, sample: Sample) -> None:
        """See Family. Also compares, once, with the model's own forward pass: raises ParityError when this family
        computes something else (an architecture with more inputs than embeddings, positions and a causal mask)."""
        segment = self.prompt(sample)
        hashes = [s.sha256 for s in segment.seen]
        with torch.no_grad():
            ids = torch.from_numpy(segment.ids.astype(np.int64))[None]
            self.inputs(ids, [hashes], [[sample.id] * len(hashes)])
            if hashes and not self._confirmed:
                self._confirm(sample, segment)
                self._confirmed = True

    def _confirm(self, sample: Sample, segment: Segment) -> None:
        """Log-probs of every token of a prompt, as this family and as the model itself computes them."""
        images = [medium.image() for medium in sample.media]
        given = self.processor(
            text=[self.chat.prompt(sample.messages)],
            images=[images],
            return_tensors="pt",
            add_special_tokens=False,
        )
        hashes = [s.sha256 for s in segment.seen]
        gap = float("inf")
        if np.array_equal(given["input_ids"][0].numpy(), segment.ids):
            track = Track(segment.ids, self.positions(segment.ids, hashes, sample.id))
            rows = pack([alone([segment.ids], [0])], [track], self.pad_id).to(self.device)
            embeds = self.inputs(rows.ids, [hashes], [[sample.id] * len(hashes)])
            mine = self.forward(embeds, rows.positions, rows.mask(embeds.dtype))
            own = self.model.model(**given.to(self.device)).last_hidden_state
            a, b = (
                chosen_logprobs(hidden[0, :-1], self.head, rows.ids[0, 1:], SamplingRule())[0]
                for hidden in (mine, own)
            )
            gap = float((a - b).abs().mean())
        if not gap <= _OWN_FORWARD[self.model.dtype]:
            raise ParityError(
                f"sample {sample.id!r}: log-probs of its prompt differ by {gap:.2g} from the own forward pass of "
                f"{type(self.model).__name__}: this architecture needs inputs that policy.kind language does not give it"
            )

    def meet(self, samples: Sequence[Sample], shown: Iterable[tuple[str, Media]]) -> None:
        """Prepares the pictures of these samples' prompts, and those that were `shown` in other processes' rollouts."""
        for sample in samples:
            self.prompt(sample)
        for owner, medium in shown:
            self.pictures.add(medium, owner)

    def begin_step(self, samples: Sequence[Sample]) -> None:
        self._prompts.clear()
        self.shown.clear()
        if vlm.trains(self._parts["vision"]):
            self.pictures.begin_step(samples, "tower")
        else:
            self.pictures.begin_step(
                samples, "connector" if vlm.trains(self._parts["connector"]) else "nothing"
            )

    def cost(self, trajectory: Trajectory) -> int:
        return len(trajectory.payload.arrays["ids"])

    def vision_cost(self, trajectory: Trajectory) -> int:
        return int((trajectory.payload.arrays["ids"] == self.image_id).sum())

    @property
    def cache_bytes(self) -> int:
        """Bytes of one token in the engine's cache."""
        return vlm.cache_bytes(self.model)

    def weigh(self, trajectories: Sequence[Trajectory]) -> tuple[int, int]:
        """Tokens, and pictures' tokens among them, when these are computed together."""
        return weigh(trajectories, self)

    def pack(self, trajectories: Sequence[Trajectory]) -> Batch:
        """Rows that share each group's prompt; decisions stay in the order of the trajectories."""
        return lay_out(trajectories, self)

    # -- the model ---------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def maskless(self) -> bool:
        """Whether the model takes attention over a token tree, which is computed on the CPU."""
        return self._tree and self.device.type == "cpu"

    def _tree_agrees(self) -> bool:
        """Whether the model, given a tree's attention, computes what it computes under the tree's mask."""
        ids = np.asarray(self.stop_ids[:1] * 6, np.int32)
        track = Track(ids, self.positions(ids, (), ""))
        rows = pack([[trunk(3, [5, 6])]], [track, track], self.pad_id)
        with torch.no_grad():
            embeds = torch.randn(1, rows.ids.shape[1], self.width, generator=torch.Generator().manual_seed(0))
            embeds = embeds.to(self.model.dtype)
            found, expected = (
                self.forward(embeds, rows.positions, mask)
                for mask in (rows.attention(), rows.mask(embeds.dtype))
            )
        gap = (found - expected).float().abs().max() / expected.float().abs().max()
        return bool(gap < (1e-4 if self.exact else 0.05))

    def positions(self, ids: NDArray[np.int32], media: Sequence[str], owner: str) -> NDArray[np.int64]:
        """Positions along one root-to-leaf path, [axes, T]: 0..T-1, or the model's multimodal rotary positions.

        Raises MediaMismatch naming the sample `owner` when the placeholders are not its pictures'.
        """
        keys = [self.picture(sha, owner) for sha in media]
        tokens = [self.pictures[key].tokens for key in keys]
        check_counts(owner, int((ids == self.image_id).sum()), tokens, tokens)
        index = getattr(self.model.model, "get_rope_index", None)
        if index is None:
            return np.arange(len(ids))[None]
        grids = [self.pictures[key].tensors["image_grid_thw"] for key in keys]
        places, _ = index(
            input_ids=torch.from_numpy(ids.astype(np.int64))[None],
            mm_token_type_ids=torch.from_numpy((ids == self.image_id).astype(np.int64))[None],
            image_grid_thw=torch.cat(grids) if grids else None,
        )
        return np.asarray(places[:, 0].numpy(), np.int64)

    def picture(self, sha256: str, owner: str) -> str:
        """What a picture's features depend on: its content, and for some models on what its sample's prompt shows."""
        return self.pictures.key(sha256, owner)

    def medium(self, sha256: str, owner: str) -> Media:
        """A picture that this step holds for a sample `owner`, as it was given."""
        return self.pictures[self.picture(sha256, owner)].medium

    def show(self, medium: Media, owner: str) -> None:
        """Makes a picture known in this step that no sample of it shows."""
        self.pictures.add(medium, owner)

    def inputs(
        self,
        ids: Tensor,
        media: Sequence[Sequence[str]],
        owners: Sequence[Sequence[str]],
        shown: Callable[[str], str] = str,
    ) -> Inputs:
        """What goes into the language model for ids [R, L], with every row's visual features in place: those of what is
        `shown` for each picture. Checks counts first: of each picture, whose sample `owners` names, and of each row's
        placeholders."""
        rows = [
            [shown(self.picture(sha, owner)) for sha, owner in zip(row, names, strict=True)]
            for row, names in zip(media, owners, strict=True)
        ]
        features = self.pictures.features([key for row in rows for key in row])
        here = ids.to(self.device) == self.image_id
        for names, placeholders, keys in zip(owners, here.sum(1).tolist(), rows, strict=True):
            expected = [self.pictures[k].tokens for k in keys]
            for owner, key, tokens in zip(names, keys, expected, strict=True):
                check_counts(owner, tokens, [tokens], [len(features[key])])
            check_counts(", ".join(dict.fromkeys(names)), placeholders, expected, expected)
        embeds: Tensor = self.embed(ids.to(self.device))
        chosen = [features[key] for row in rows for key in row]
        if not chosen:
            return Inputs(embeds, here)
        first, *deep = torch.cat(chosen).to(embeds.dtype).split(self.width, -1)
        return Inputs(embeds.masked_scatter(here[..., None], first), here, tuple(deep))

    def forward(
        self,
        given: Inputs | Tensor,
        positions: Tensor,
        mask: Tensor | attention.Attend | None,
        cache: Any = None,
    ) -> Tensor:
        """Hidden states [R, L, width] of the language model, of inputs or of the embeddings [R, L, width] of text.

        `positions` i64[axes, R, L]; `mask`: additive [R or 1, 1, L, keys], or bool [R, L] of what is not padding, or what
        computes attention where the family is `maskless`.
        """
        given = given if isinstance(given, Inputs) else Inputs(given)
        places = positions[0] if positions.shape[0] == 1 else positions
        more: dict[str, Any] = {}
        if given.deep:
            more = {"visual_pos_masks": given.pictured, "deepstack_visual_embeds": list(given.deep)}
        if mask is not None and not isinstance(mask, Tensor):
            more["tree"], mask = mask, attention.no_mask(given.embeds)
        else:
            mask = masks(self.attends, mask, places, given, cache is not None)
        out = self.decoder(
            inputs_embeds=given.embeds,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=cache is not None,
            **more,
        )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def evaluate(
        self, batch: Batch, *, want: frozenset[str] = frozenset(), view: str = "current"
    ) -> Evaluated:
        """See Family. Entropy comes with every view, because it is watched; with gradient only if it is wanted. Values come
        only where they are wanted."""
        if view == "current":
            return self.score(batch, want)
        if view not in self._declared:
            raise undeclared(view)
        return self._declared[view][1].evaluate(batch, want)

    def score(self, batch: Batch, want: frozenset[str], shown: Callable[[str], str] = str) -> Evaluated:
        """What the weights that are in the model say, of what is `shown` for each picture."""
        layout: Layout = batch.payload
        hidden = self._hidden(layout, shown)
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
        home = batch.logp_behavior.device
        value = self._values(hidden, layout).to(home) if "value" in want else None
        found = Evaluated(logp=logp.to(home), entropy=entropy.to(home), value=value)
        if "distribution" in want:
            order = [(layout.rule == number).nonzero()[:, 0] for number in range(len(layout.rules))]
            parts = [
                rule_logprobs(self.head(picked[mine.to(self.device)]), rule)
                for mine, rule in zip(order, layout.rules, strict=True)
            ]
            said = parts[0] if len(parts) == 1 else torch.cat(parts)[torch.cat(order).argsort()]
            found.extras = {"distribution": said.to(home)}
        if "collision" in want:
            same = torch.zeros_like(logp)
            for number, rule in enumerate(layout.rules):
                mine = (layout.rule == number).nonzero()[:, 0].to(self.device)
                same = same.index_copy(0, mine, collisions(picked[mine], self.head, rule))
            found.extras = {**found.extras, "collision": same.to(home)}
        return found

    def read(self, batch: Batch) -> Tensor:
        """The critic's values alone, f32[V]: nothing is projected on the vocabulary."""
        return self._values(self._hidden(batch.payload), batch.payload).to(batch.logp_behavior.device)

    def _hidden(self, layout: Layout, shown: Callable[[str], str] = str) -> Tensor:
        rows = layout.rows.to(self.device)
        embeds = self.inputs(rows.ids, layout.media, layout.owners, shown)
        mask = rows.attention() if self.maskless else rows.mask(embeds.dtype)
        return self.forward(embeds, rows.positions, mask)

    def _values(self, hidden: Tensor, layout: Layout) -> Tensor:
        assert self.critic is not None, "checked when the objective was built"
        places = layout.value_row.to(self.device), layout.value_column.to(self.device)
        values: Tensor = self.critic(hidden[places])
        return values

    def save(self, path: Path) -> None:
        """The whole model and its processor; with adapters, those alone, as a PEFT folder. A critic has a file beside it."""
        with vlm.quiet():
            if self.lora:
                self.lora.save(path)
            else:
                self.model.save_pretrained(path)
                self.processor.save_pretrained(path)
        if self.critic is not None:
            self.critic.save(path)

    def load(self, path: Path) -> None:
        """Reads weights of the same architecture into the live model, bit for bit; features are forgotten. Raises ValueError
        where a critic is asked for and none was saved."""
        if self.critic is not None:
            self.critic.load(path)
        for _, view in self._declared.values():
            view.keep()
        self._read(path)

    def _read(self, path: Path) -> None:
        if self.lora:
            self.lora.load(path)
        else:
            with vlm.quiet():
                fresh = type(self.model).from_pretrained(path, use_safetensors=True, dtype=self.model.dtype)
            self.model.load_state_dict(fresh.state_dict())
        self.pictures.forget_features()
