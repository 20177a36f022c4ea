"""The token tree: rollouts laid out so that what they have in common is computed once.

A path is what one rollout is computed from: its ids, and for each its position. Paths that begin alike share a node for
as long as they do, whether that is a system prompt, a whole prompt, some turns of a conversation or a branch's trunk. A
row holds a forest in preorder: every node's tokens, then all that continues them. A token sees its own path and nothing
else, so log-probabilities and gradients equal those of a row of its own up to rounding; positions count along the path.
A padded layout is the special case of one path per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triune.policy.attention import Segment, TreeAttention

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Path:
    """ids i32[T] from the root, and `positions` i64[A, T] in A rotary axes (mostly 1), given by the family: multimodal
    positions depend on where the pictures are."""

    ids: Ids
    positions: NDArray[np.int64]


@dataclass(slots=True)
class Node:
    """Tokens `start`..`stop` of the path `member` and of every path below; the paths in `ends` go no further."""

    member: int
    start: int
    stop: int
    children: list[Node] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.stop - self.start

    def walk(self) -> Iterator[Node]:
        """Itself and all below, in preorder."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)


def grow(keys: Sequence[NDArray[np.int64]], members: Sequence[int], least: float = 0.0) -> list[Node]:
    """The forest of the paths `members`; `keys[i]` i64[T] tells the tokens of path i apart (a placeholder by its picture).

    A node that saves fewer than `least` tokens, counted over those who share it, is not kept apart: its tokens are
    repeated for each of them.
    """
    forest: dict[int, list[int]] = {}
    for member in members:
        if len(keys[member]):
            forest.setdefault(int(keys[member][0]), []).append(member)
    return [root for same in forest.values() for root in _grow(keys, same, least)]


def _grow(keys: Sequence[NDArray[np.int64]], alike: Sequence[int], least: float) -> list[Node]:
    """Nodes for paths that have at least their first token in common, without recursion: a tree may be deep."""
    root = Node(alike[0], 0, 0)
    waiting, made = [(root, list(alike))], []
    while waiting:
        node, mine = waiting.pop()
        made.append(node)
        node.stop = _common(keys, mine, node.start)
        onward: dict[int, list[int]] = {}
        for member in mine:
            if len(keys[member]) == node.stop:
                node.ends.append(member)
            else:
                onward.setdefault(int(keys[member][node.stop]), []).append(member)
        for same in onward.values():
            child = Node(same[0], node.stop, node.stop)
            node.children.append(child)
            waiting.append((child, same))
    for node in reversed(made):  # children before their parents
        kept: list[Node] = []
        for child in node.children:
            kept += _split(child) if _saved(child) <= least else [child]
        node.children = kept
    return _split(root) if _saved(root) <= least else [root]


def _saved(node: Node) -> float:
    """Tokens that are computed less often because a node is kept apart from its children."""
    return (len(node.children) - 1) * node.length if node.children else float("inf")


def _common(keys: Sequence[NDArray[np.int64]], members: Sequence[int], start: int) -> int:
    """Where these paths, alike up to `start`, first differ or the shortest ends."""
    first = keys[members[0]]
    end = min(len(keys[member]) for member in members)
    for member in members[1:]:
        differs = first[start:end] != keys[member][start:end]
        if differs.any():
            end = start + int(differs.argmax())
    return end


def _split(node: Node) -> list[Node]:
    """A node's children with its tokens repeated in each; a path that ended with the node is a part of the first's."""
    for child in node.children:
        child.start = node.start
    node.children[0].ends += node.ends
    return node.children


def alone(keys: Sequence[Ids | NDArray[np.int64]], members: Sequence[int]) -> list[Node]:
    """Every path for itself."""
    return [Node(member, 0, len(keys[member]), ends=[member]) for member in members if len(keys[member])]


def trunk(length: int, lengths: Sequence[int], first: int = 0) -> Node:
    """One trunk of `length` tokens, and what is left of the paths `first`, `first` + 1, ... of `lengths` tokens."""
    return Node(first, 0, length, [Node(i, length, size, ends=[i]) for i, size in enumerate(lengths, first)])


@dataclass(slots=True)
class Rows:
    """R packed rows of L columns. ids i64[R, L], positions i64[A, R, L]. `until` i64[R, L]: the column where what lies
    below a token ends (0 for padding), so that query i sees key j if j <= i < until[j].

    `segments` are the nodes of every row in preorder, their columns numbered within the row; `columns[i]` is path i's row
    and its columns i64[T]."""

    ids: Tensor
    positions: Tensor
    until: Tensor
    segments: list[list[Segment]]
    columns: dict[int, tuple[int, NDArray[np.int64]]]

    def to(self, device: torch.device) -> Rows:
        moved = {name: getattr(self, name).to(device) for name in ("ids", "positions", "until")}
        return replace(self, **moved)

    @property
    def single(self) -> bool:
        """One path per row: plain causal attention, because padding is on the right, where no token looks."""
        return all(len(row) == 1 for row in self.segments)

    @property
    def mask_bytes(self) -> int:
        """The size of a float32 mask."""
        return 4 * (1 if self.single else len(self.ids)) * self.ids.shape[1] ** 2

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Additive attention mask [R or 1, 1, L, L]: 0 where a query may look at a key, the lowest number elsewhere."""
        column = torch.arange(self.ids.shape[1], device=self.ids.device)
        query, key = column[:, None], column[None, :]
        # A padding column looks at itself only: a row of all -inf would turn into NaN.
        seen = (key <= query)[None] if self.single else (key <= query) & (query < self.until[:, None, :])
        hidden = ~(seen | (key == query))[:, None]
        return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)

    def attention(self) -> TreeAttention:
        """The same without a mask. Rows of one path each are computed as they are, padding and all."""
        length = self.ids.shape[1]
        found = []
        for r, row in enumerate(self.segments):
            first = r * length
            if self.single:
                found.append(Segment(first, first + length, first + length))
            else:
                end = max(s.until for s in row)
                rest = [Segment(end, length, length)] if end < length else []
                found += [Segment(first + s.start, first + s.stop, first + s.until) for s in (*row, *rest)]
        return TreeAttention.of(found)


def pack(rows: Sequence[Sequence[Node]], paths: Sequence[Path], pad: int) -> Rows:
    """Lays every forest out as one row, padded on the right to the longest."""
    axes = paths[0].positions.shape[0]
    width = max(sum(node.length for root in row for node in root.walk()) for row in rows)
    ids = np.full((len(rows), width), pad, np.int64)
    positions = np.zeros((axes, len(rows), width), np.int64)
    until = np.zeros((len(rows), width), np.int64)
    segments: list[list[Segment]] = []
    columns: dict[int, tuple[int, NDArray[np.int64]]] = {}
    for number, row in enumerate(rows):
        segments.append([])
        end = 0
        for root in row:
            end = _place(root, end, segments[-1], columns, number)
        for node, segment in zip((n for root in row for n in root.walk()), segments[-1], strict=True):
            here, path = slice(segment.start, segment.stop), paths[node.member]
            ids[number, here] = path.ids[node.start : node.stop]
            positions[:, number, here] = path.positions[:, node.start : node.stop]
            until[number, here] = segment.until
    for member, (number, along) in columns.items():
        columns[member] = number, along[: len(paths[member].ids)]
    ids_of, places, ends = (torch.from_numpy(x) for x in (ids, positions, until))
    return Rows(ids_of, places, ends, segments, columns)


def _place(
    root: Node,
    first: int,
    segments: list[Segment],
    columns: dict[int, tuple[int, NDArray[np.int64]]],
    row: int,
) -> int:
    """Columns for a tree from `first` on; returns the column after it."""
    end = first
    waiting: list[tuple[Node, NDArray[np.int64], int]] = [(root, np.zeros(0, np.int64), -1)]
    while waiting:
        node, trail, number = waiting.pop()
        if number >= 0:  # everything below it is placed
            segments[number] = replace(segments[number], until=end)
            continue
        waiting.append((node, trail, len(segments)))
        segments.append(Segment(end, end + node.length, end))
        trail = np.concatenate([trail, np.arange(end, end + node.length)])
        end += node.length
        for member in node.ends:
            columns[member] = row, trail
        waiting += [(child, trail, -1) for child in reversed(node.children)]
    return end


def text_path(ids: Sequence[int]) -> Path:
    """A path with ordinary positions on one axis: 0, 1, 2, ..."""
    return Path(np.asarray(ids, np.int32), np.arange(len(ids))[None])
