"""How trajectories of token decisions are laid out in rows for the language family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triune.algo.types import Batch
from triune.core.trajectory import SamplingRule, Trajectory
from triune.policy.options import LanguageOptions
from triune.policy.packing import Rows, Tree, choose_parts, pack


class Positioned(Protocol):
    """What a layout needs of its family."""

    options: LanguageOptions
    width: int
    pad_id: int

    def positions(self, ids: NDArray[np.int32], media: Sequence[str], owner: str) -> NDArray[np.int64]: ...


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


def lay_out(trajectories: Sequence[Trajectory], family: Positioned) -> Batch:
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
        parts = {"shared": 1, "padded": len(indices)}.get(family.options.layout) or choose_parts(
            len(prefix), lengths, family.width
        )
        for part in np.array_split(np.asarray(indices), parts):
            trees.append(_tree([trajectories[i] for i in part], family))
            members.append([int(i) for i in part])
    return _batch(trajectories, pack(trees, family.pad_id), trees, members)


def _tree(trajectories: Sequence[Trajectory], family: Positioned) -> Tree:
    prefix, media = _prefix(trajectories[0])
    size, places = len(prefix), family.positions(prefix, media, trajectories[0].sample)
    branches, along = [], []
    for trajectory in trajectories:
        ids = np.asarray(trajectory.payload.arrays["ids"], np.int32)
        branches.append(ids[size:])
        if len(trajectory.payload.media) == len(media):
            along.append(following(places, len(ids) - size))
        else:
            along.append(family.positions(ids, trajectory.payload.media, trajectory.sample)[:, size:])
    return Tree(prefix, tuple(branches), places, tuple(along))


def _batch(
    trajectories: Sequence[Trajectory], rows: Rows, trees: list[Tree], members: list[list[int]]
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
            segment = np.searchsorted([s for s, _ in trajectory.rules], np.arange(len(at)), side="right") - 1
            rule = np.asarray([number[id(r)] for _, r in trajectory.rules])[segment]
            where[index] = [np.full(len(at), row), column, arrays["ids"][at].astype(np.int64), rule]
    flat = [
        torch.from_numpy(np.concatenate([where[i][k] for i in range(len(trajectories))])) for k in range(4)
    ]
    owners = [trajectories[mine[0]].sample for mine in members]
    row_of, column_of, ids, rule_of = flat
    return Batch.of(trajectories, Layout(rows, media, owners, row_of, column_of, ids, rule_of, rules))


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
