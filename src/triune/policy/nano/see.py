"""Stage 1, see: dense pre-training of nano's vision tower from the truth that drawn scenes carry for free.

Every 8 x 8 patch predicts the class and colour of the thing that covers most of it, that thing's box relative to
the patch, and its own pixels coarsely. The heads are thrown away afterwards.
"""

from __future__ import annotations

import multiprocessing
import string
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Idefics3ForConditionalGeneration

from triune.data.embedded import draw_scene
from triune.data.embedded.canvas import COLOURS, SHAPES, SIZE, Ask, Thing

PATCH = 8
GRID = SIZE // PATCH
CLASSES = (
    "", *string.digits, *string.ascii_lowercase, "+", "-", *SHAPES, "beam", "weight", "mercury", "bar", "slice",
)  # fmt: skip
PAINT = ("", *COLOURS)
_POOL_SEED = 7_000

POOL: Mapping[str, int] = {
    "digits": 12_000, "handwriting": 8_000, "sequence": 3_500, "shapes": 6_000, "word": 4_500, "expression": 3_500,
    "odd_one_out": 2_500, "lever": 1_500, "thermometer": 1_500, "bars": 2_000, "pie": 1_000,
}  # fmt: skip
"""Scenes per kind: many where appearance is varied (real handwriting over photographs), few where it is drawn."""


@dataclass(slots=True)
class Pool:
    """Scenes with their questions. pixels u8 [n, 64, 64, 3]; kind, colour i8 [n, 8, 8]; box f32 [n, 8, 8, 4]."""

    pixels: NDArray[np.uint8]
    kind: NDArray[np.int8]
    colour: NDArray[np.int8]
    box: NDArray[np.float32]
    asks: list[list[Ask]]


PatchTruth = tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.float32]]


def patch_truth(things: list[Thing]) -> PatchTruth:
    """Per patch: the class and colour of the thing that covers most of it (at least a quarter), and its box."""
    low = np.arange(GRID) * PATCH
    best = np.full((GRID, GRID), PATCH * PATCH / 4 - 1)
    kind, colour = np.zeros((2, GRID, GRID), np.int8)
    box = np.zeros((GRID, GRID, 4), np.float32)
    for thing in things:
        x1, y1, x2, y2 = thing.box
        width = (np.minimum(x2, low + PATCH) - np.maximum(x1, low)).clip(0)
        height = (np.minimum(y2, low + PATCH) - np.maximum(y1, low)).clip(0)
        cover = height[:, None] * width[None, :]
        mine = cover > best
        best = np.where(mine, cover, best)
        kind[mine], colour[mine] = CLASSES.index(thing.kind), PAINT.index(thing.colour)
        box[mine] = thing.box
    return kind, colour, box


def _draw(
    job: tuple[str, int, int],
) -> tuple[NDArray[np.uint8], list[PatchTruth], list[list[Ask]]]:
    kind, start, stop = job
    scenes = [draw_scene(kind, _POOL_SEED, "train", index) for index in range(start, stop)]
    return (
        np.stack([s.pixels for s in scenes]),
        [patch_truth(s.things) for s in scenes],
        [s.asks for s in scenes],
    )


def draw_pool(sizes: Mapping[str, int] = POOL, processes: int = 2) -> Pool:
    """Draws the pool of training scenes, shuffled by a fixed seed."""
    step = 250
    jobs = [(kind, i, min(i + step, n)) for kind, n in sizes.items() for i in range(0, n, step)]
    processes = max(
        1, min(processes, sum(sizes.values()) // step)
    )  # starting one takes as long as so many scenes
    with multiprocessing.get_context("spawn").Pool(processes) as workers:
        parts = workers.map(_draw, jobs, chunksize=1)
    truths = [truth for _, many, _ in parts for truth in many]
    order = np.random.default_rng(0).permutation(len(truths))
    asks = [a for _, _, many in parts for a in many]
    return Pool(
        np.concatenate([p for p, _, _ in parts])[order],
        np.stack([t[0] for t in truths])[order],
        np.stack([t[1] for t in truths])[order],
        np.stack([t[2] for t in truths])[order],
        [asks[i] for i in order],
    )


def normalise(pixels: NDArray[np.uint8]) -> Tensor:
    """[n, 64, 64, 3] uint8 -> [n, 3, 64, 64] f32 in [-1, 1], as the processor does it."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class Heads(nn.Module):
    """Linear read-outs per patch: class, colour, box (in units of the picture, relative to the patch), pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(CLASSES), len(PAINT), 4, 12)
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, states: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = self.linear(states).split(self.sizes, -1)
        return parts


def dense_loss(heads: Heads, states: Tensor, pool: Pool, rows: NDArray[np.int64]) -> tuple[Tensor, float]:
    """Loss of the dense read-outs for `states` [b, 64, width], and the accuracy on covered patches."""
    kinds, colours, boxes, pixels = heads(states)
    kind = torch.from_numpy(pool.kind[rows].astype(np.int64)).flatten(1)
    colour = torch.from_numpy(pool.colour[rows].astype(np.int64)).flatten(1)
    offsets = torch.arange(GRID, dtype=torch.float32) * PATCH + PATCH / 2
    centre = torch.stack([offsets.repeat(GRID), offsets.repeat_interleave(GRID)] * 2, -1)
    box = (torch.from_numpy(pool.box[rows]).flatten(1, 2) - centre) / (SIZE / 4)
    coarse = F.avg_pool2d(normalise(pool.pixels[rows]), PATCH // 2)
    blocks = F.unfold(coarse, 2, stride=2).transpose(1, 2)
    covered = kind > 0
    loss = (
        F.cross_entropy(kinds.flatten(0, 1), kind.flatten())
        + 0.5 * F.cross_entropy(colours.flatten(0, 1), colour.flatten())
        + 2.0 * F.smooth_l1_loss(boxes[covered], box[covered], beta=0.1)
        + 0.5 * F.mse_loss(pixels, blocks)
    )
    return loss, float((kinds.argmax(-1) == kind)[covered].float().mean())


def teach_to_see(
    model: Idefics3ForConditionalGeneration,
    pool: Pool,
    *,
    steps: int,
    batch: int = 96,
    lr: float = 2e-3,
    seed: int = 0,
    log_every: int = 100,
) -> float:
    """Trains `model.model.vision_model` in place; returns the accuracy on covered patches over the last steps."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tower = model.model.vision_model
    # Plain attention: on a CPU, PyTorch's fused kernel is two times slower backward at 64 patches.
    model.set_attn_implementation({"vision_config": "eager"})
    heads = Heads(tower.config.hidden_size)
    weights = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    accuracy, started = 0.0, time.monotonic()
    whole = torch.ones(batch, GRID, GRID, dtype=torch.bool)
    for step in range(1, steps + 1):
        rows = rng.integers(0, len(pool.pixels), batch)
        with torch.autocast("cpu", torch.bfloat16):
            states = tower(
                pixel_values=normalise(pool.pixels[rows]), patch_attention_mask=whole
            ).last_hidden_state
        loss, hit = dense_loss(heads, states.float(), pool, rows)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        accuracy = hit if step == 1 else 0.98 * accuracy + 0.02 * hit
        if step % log_every == 0:
            print(f"see {step}/{steps} loss {loss.item():.3f} patch accuracy {accuracy:.3f} "
                  f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    return accuracy
