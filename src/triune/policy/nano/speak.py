"""Stages 2 and 3, speak: the tower frozen and its features cached, several questions per picture in one packed row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Idefics3ForConditionalGeneration, Idefics3Processor

from triune.data.embedded.canvas import Ask
from triune.policy.nano.see import GRID, Pool, normalise
from triune.policy.nano.tokenizer import ASSISTANT, END, FENCE, GLOBAL, IMAGE, USER
from triune.policy.packing import Node, Path, Rows, pack, text_path, trunk

_CHUNKS = 4

Annotator = Callable[[Ask, np.random.Generator], str]


@torch.no_grad()
def tower_features(model: Idefics3ForConditionalGeneration, pool: Pool, batch: int = 250) -> Tensor:
    """The frozen tower's patch states of every scene, bf16 [n, 64, width]."""
    parts = []
    for start in range(0, len(pool.pixels), batch):
        pixels = normalise(pool.pixels[start : start + batch])
        whole = torch.ones(len(pixels), GRID, GRID, dtype=torch.bool)
        with torch.autocast("cpu", torch.bfloat16):
            states = model.model.vision_model(
                pixel_values=pixels, patch_attention_mask=whole
            ).last_hidden_state
        parts.append(states.bfloat16())
    return torch.cat(parts)


class Writer:
    """Turns questions and answers into packed rows: the picture is the prefix, every question a branch."""

    def __init__(self, processor: Idefics3Processor) -> None:
        self.tokenizer = processor.tokenizer
        token = self.tokenizer.convert_tokens_to_ids
        visual = [token(FENCE), token(GLOBAL), *[token(IMAGE)] * processor.image_seq_len, token(FENCE)]
        self.prefix = [token(USER), *visual]
        self.assistant, self.end, self.image = token(ASSISTANT), token(END), token(IMAGE)
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text)["input_ids"]
        return self._cache[text]

    def rows(
        self, asks: Sequence[Sequence[Ask]], annotate: Annotator, rng: np.random.Generator
    ) -> tuple[Rows, Tensor]:
        """Packed rows and the mask bool[R, L] of the tokens that are taught (answers and the end token)."""
        forests: list[list[Node]] = []
        paths: list[Path] = []
        spans: list[tuple[int, int]] = []
        for questions in asks:
            first = len(paths)
            for ask in questions:
                question = [*self.prefix, *self.encode(ask.question), self.assistant]
                answer = [*self.encode(annotate(ask, rng)), self.end]
                spans.append((len(question), len(question) + len(answer)))
                paths.append(text_path([*question, *answer]))
            forests.append([trunk(len(self.prefix), [len(p.ids) for p in paths[first:]], first)])
        rows = pack(forests, paths, self.tokenizer.pad_token_id)
        mask = torch.zeros_like(rows.ids, dtype=torch.bool)
        for number, (a, b) in enumerate(spans):
            row, columns = rows.columns[number]
            mask[row, columns[a:b]] = True
        return rows, mask


def teach_to_speak(
    model: Idefics3ForConditionalGeneration,
    processor: Idefics3Processor,
    pool: Pool,
    features: Tensor,
    *,
    steps: int,
    annotate: Annotator,
    batch: int = 96,
    lr: float = 1.5e-3,
    warmup: float = 0.1,
    seed: int = 0,
    log_every: int = 100,
    on_log: Callable[[int], None] | None = None,
) -> None:
    """Supervised teaching of connector and language model in place; the tower's cached `features` stay as they are."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model.requires_grad_(True)
    model.set_attn_implementation({"text_config": "eager"})
    writer = Writer(processor)
    weights = [*model.model.connector.parameters(), *model.model.text_model.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=warmup)
    average, started = 0.0, time.monotonic()
    for step in range(1, steps + 1):
        # Rows differ fourfold in length: sorted into chunks, a batch is mostly tokens instead of mostly padding.
        chosen = rng.integers(0, len(pool.asks), batch)
        chosen = chosen[
            np.argsort([sum(len(ask.answer) for ask in pool.asks[i]) for i in chosen], kind="stable")
        ]
        chunks = [
            (part, *writer.rows([pool.asks[i] for i in part], annotate, rng))
            for part in np.array_split(chosen, _CHUNKS)
        ]
        count = sum(int(taught.sum()) for _, _, taught in chunks)
        total = 0.0
        for part, rows, taught in chunks:
            with torch.autocast("cpu", torch.bfloat16):
                visual = model.model.connector(features[part])
                embeds = model.get_input_embeddings()(rows.ids)
                embeds = embeds.masked_scatter((rows.ids == writer.image)[..., None], visual.to(embeds.dtype))
                hidden = model.model.text_model(
                    inputs_embeds=embeds,
                    attention_mask=rows.mask(torch.bfloat16),
                    position_ids=rows.positions[0],
                    use_cache=False,
                ).last_hidden_state
                # Branches start after the prefix, so the column before a taught token is always of the same branch.
                logits = model.lm_head(hidden[:, :-1][taught[:, 1:]])
            loss = F.cross_entropy(logits.float(), rows.ids[:, 1:][taught[:, 1:]], reduction="sum") / count
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        average = total if step == 1 else 0.98 * average + 0.02 * total
        if step % log_every == 0:
            print(f"speak {step}/{steps} loss {average:.4f} {time.monotonic() - started:.0f} s", flush=True)
            if on_log is not None:
                on_log(step)
