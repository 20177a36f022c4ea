"""The shared-prefix layout: one row `[prompt | response 1 | ... | response G]` that computes a prompt once.

A block-causal mask hides the responses from each other and position ids restart after the prompt, so every token
sees exactly what it would see in a row of its own; log-probabilities and gradients are equal up to rounding.
A padded layout is the special case of one branch per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tree:
    """A prefix of P tokens and branches that continue it; `positions` i64[A, P or T] in A rotary axes (mostly 1).

    `prefix_positions` and `branch_positions` are given by the family, because multimodal rotary positions depend on
    where the pictures are.
    """

    prefix: Ids
    branches: tuple[Ids, ...]
    prefix_positions: NDArray[np.int64]
    branch_positions: tuple[NDArray[np.int64], ...]

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(map(len, self.branches))


@dataclass(slots=True)
class Rows:
    """R packed rows of L columns. ids i64[R, L], positions i64[A, R, L], segment i64[R, L] (-1 padding, 0 prefix, 1..k
    branches). `start[r][b]` is the column where branch b of row r begins."""

    ids: Tensor
    positions: Tensor
    segment: Tensor
    start: list[list[int]]

    def to(self, device: torch.device) -> Rows:
        return Rows(self.ids.to(device), self.positions.to(device), self.segment.to(device), self.start)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Additive attention mask [R, 1, L, L]: 0 where a query may look at a key, the lowest number elsewhere."""
        length = self.ids.shape[1]
        query, key = self.segment[:, :, None], self.segment[:, None, :]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        # A padding column looks at itself only: a row of all -inf would turn into NaN.
        allowed = causal & (((key == 0) & (query >= 0)) | (key == query)) & (key >= 0)
        allowed |= torch.eye(length, dtype=torch.bool, device=self.ids.device)
        return torch.where(allowed[:, None], 0.0, torch.finfo(dtype).min).to(dtype)


def pack(trees: Sequence[Tree], pad: int) -> Rows:
    """Lays every tree out as one row, padded on the right to the longest."""
    axes = trees[0].prefix_positions.shape[0]
    width = max(tree.length for tree in trees)
    ids = np.full((len(trees), width), pad, np.int64)
    positions = np.zeros((axes, len(trees), width), np.int64)
    segment = np.full((len(trees), width), -1, np.int64)
    start: list[list[int]] = []
    for row, tree in enumerate(trees):
        column = len(tree.prefix)
        ids[row, :column], segment[row, :column] = tree.prefix, 0
        positions[:, row, :column] = tree.prefix_positions
        start.append([])
        for number, (branch, places) in enumerate(zip(tree.branches, tree.branch_positions, strict=True), 1):
            start[row].append(column)
            end = column + len(branch)
            ids[row, column:end], segment[row, column:end] = branch, number
            positions[:, row, column:end] = places
            column = end
    return Rows(torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(segment), start)


def text_tree(prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> Tree:
    """A tree with ordinary one-axis positions: 0.. along every root-to-leaf path."""
    size = len(prefix)
    return Tree(
        np.asarray(prefix, np.int32),
        tuple(np.asarray(b, np.int32) for b in branches),
        np.arange(size)[None],
        tuple(np.arange(size, size + len(b))[None] for b in branches),
    )


def row_cost(prefix: int, branches: Sequence[int], width: int) -> float:
    """Estimated cost of one packed row in units of a token through the weights: attention grows with its square.

    `width` is the hidden size: L tokens cost L through the weights and about L^2 / (6 width) in attention scores.
    """
    length = prefix + sum(branches)
    return length + length * length / (6 * width)


def choose_parts(prefix: int, branches: Sequence[int], width: int) -> int:
    """How many rows to spread a group's branches over: 1 shares the prompt fully, len(branches) is padded rows.

    Sharing saves (parts - 1) prompts but pays attention scores across responses that the mask then hides; long
    responses to a short prompt are cheaper apart.
    """
    best, parts = float("inf"), 1
    for candidate in range(1, len(branches) + 1):
        chunks = np.array_split(np.asarray(branches), candidate)
        cost = sum(row_cost(prefix, chunk.tolist(), width) for chunk in chunks)
        if cost < best * (1 - 1e-9):
            best, parts = cost, candidate
    return parts
