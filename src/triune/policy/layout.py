"""How trajectories of token decisions are laid out for the language family: by estimated cost and by the mask's size.

What the rollouts of a micro-batch have in common is found, whatever it is, and computed once (`packing.py`). Where the
model takes attention over a tree without a mask, sharing costs next to nothing; under a mask, a row also pays for the
scores that the mask hides and for the mask itself, so that long branches go into several rows, or into rows of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triune.algo.types import Batch
from triune.core.trajectory import SamplingRule, Trajectory
from triune.policy.options import LanguageOptions
from triune.policy.packing import Node, Path, Rows, alone, grow, pack

MASK_BYTES = 1 << 28
"""Largest attention mask that a layout may need, unless rows of one path each need more."""

Level = Literal["token", "step"]
"""Where a critic reads values: before every decision, or before every turn."""

Kind = Literal["tree", "shared", "parts", "padded"]
"""One row without a mask; a row per prompt under a mask; several rows per prompt; a row per rollout."""


class Laid(Protocol):
    """What a layout needs of its family. `maskless`: the model takes attention over a tree; `packs`: it takes a mask;
    `reads`: where its critic reads values, if it has one."""

    options: LanguageOptions
    width: int
    pad_id: int
    image_id: int
    packs: bool

    @property
    def reads(self) -> Level | None: ...

    @property
    def maskless(self) -> bool: ...

    def positions(self, ids: NDArray[np.int32], media: Sequence[str], owner: str) -> NDArray[np.int64]: ...

    def picture(self, sha256: str, owner: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen and why: estimated costs in tokens through the weights, and the mask's bytes."""

    layout: Kind
    rows: int
    tokens: int
    cost: float
    padded: float
    mask_bytes: int

    def __str__(self) -> str:
        shape = {"tree": "a token tree", "shared": "a row per prompt", "parts": "several rows per prompt"}
        return (
            f"{shape.get(self.layout, 'a row per rollout')}, {self.tokens} tokens in {self.rows} "
            f"row{'s' * (self.rows > 1)}, mask {self.mask_bytes / 2**20:.0f} MiB; estimated cost "
            f"{self.cost / max(self.padded, 1):.2f} of a row per rollout"
        )


@dataclass(slots=True)
class Layout:
    """The family's payload of a batch: packed rows, the pictures of each row in column order with the samples they belong
    to, and for every decision the row and column whose hidden state predicts it, its id, and the index of its sampling
    rule. `value_row`, `value_column` i64[V] are the places of a critic's read-outs."""

    rows: Rows
    choice: Choice
    media: list[list[str]]
    owners: list[list[str]]
    row: Tensor
    column: Tensor
    ids: Tensor
    rule: Tensor
    rules: list[SamplingRule]
    value_row: Tensor
    value_column: Tensor


@dataclass(slots=True)
class _Paths:
    """What is computed of every trajectory: its path; what tells its tokens apart; its pictures and where each one's
    features go."""

    paths: list[Path]
    keys: list[NDArray[np.int64]]
    shown: list[list[tuple[str, int]]]


def lay_out(trajectories: Sequence[Trajectory], family: Laid) -> Batch:
    """The cheapest rows that the family can compute; decisions stay in the order of the trajectories."""
    found = _paths(trajectories, family)
    kind, forests, cost = _choose(found.keys, family)
    rows = pack(forests, found.paths, family.pad_id)
    score = _SCORE / 2 if family.maskless else _MASKED
    choice = Choice(
        layout=kind,
        rows=len(forests),
        tokens=sum(s.stop - s.start for row in rows.segments for s in row),
        cost=cost,
        padded=rows_cost([len(k) for k in found.keys], family.width, score),
        mask_bytes=0 if family.maskless else rows.mask_bytes,
    )
    media: list[list[str]] = []
    owners: list[list[str]] = []
    for forest in forests:
        media.append([])
        owners.append([])
        for node in (n for root in forest for n in root.walk()):
            for sha, place in found.shown[node.member]:
                if node.start <= place < node.stop:
                    media[-1].append(sha)
                    owners[-1].append(trajectories[node.member].sample)
    rules, number = _distinct(trajectories)
    where: list[list[NDArray[np.int64]]] = [[], [], [], []]
    reads: list[list[NDArray[np.int64]]] = [[], [], [], []]
    for index, trajectory in enumerate(trajectories):
        at = trajectory.payload.arrays["at"].astype(np.int64)
        row, columns = rows.columns[index]
        segment = np.searchsorted([s for s, _ in trajectory.rules], np.arange(len(at)), side="right") - 1
        rule = np.asarray([number[id(r)] for _, r in trajectory.rules])[segment]
        ids = trajectory.payload.arrays["ids"][at].astype(np.int64)
        for column, values in zip(where, (np.full(len(at), row), columns[at - 1], ids, rule), strict=True):
            column.append(values)
        places, before = _read_outs(trajectory, family.reads)
        read = np.full(len(places), row), columns[places], np.full(len(places), index), before
        for column, values in zip(reads, read, strict=True):
            column.append(values)
    row_of, column_of, said, rule_of = (torch.from_numpy(np.concatenate(column)) for column in where)
    value_row, value_column, owner, turn = (torch.from_numpy(np.concatenate(column)) for column in reads)
    layout = Layout(
        rows, choice, media, owners, row_of, column_of, said, rule_of, rules, value_row, value_column
    )
    batch = Batch.of(trajectories, layout, value_trajectory=owner, value_turn=turn)
    if (
        family.reads == "token"
    ):  # to a critic that reads before every token, each is a turn; `action` keeps the turns
        batch.turn = torch.cat([torch.arange(len(t.decisions)) for t in trajectories])
    return batch


def _read_outs(trajectory: Trajectory, level: Level | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens of a trajectory's path whose hidden states a critic reads, and the turns that each precedes.

    That is the token before every decision, or the last one before a turn. What was cut (by a limit, or into fragments) is
    read once more where its path ends: the bootstrap. A trajectory without a decision has nothing to be read.
    """
    at, turn = trajectory.payload.arrays["at"].astype(np.int64), trajectory.decisions.turn.astype(np.int64)
    if level is None or not len(at):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if level == "token":
        turn = np.arange(len(at))
    first = np.flatnonzero(np.diff(turn, prepend=-1))
    places, before = at[first] - 1, turn[first]
    if not trajectory.terminated:
        places, before = np.append(places, _size(trajectory, level) - 1), np.append(before, turn[-1] + 1)
    return places, before


def weigh(trajectories: Sequence[Trajectory], family: Laid) -> tuple[int, int]:
    """Tokens that these trajectories take when what they have in common is computed once, and the pictures' among them."""
    keys = _keys(trajectories, family)
    apart = family.options.layout == "padded" or not (family.packs or family.maskless)
    everyone = range(len(keys))
    nodes = [n for root in (alone(keys, everyone) if apart else grow(keys, everyone)) for n in root.walk()]
    vision = sum(int((keys[n.member][n.start : n.stop] >> 32 > 0).sum()) for n in nodes)
    return sum(node.length for node in nodes), vision


def _size(trajectory: Trajectory, level: Level | None) -> int:
    """Tokens of a trajectory's path: the last decision is predicted, and nothing is predicted from it but, for a critic, how
    an episode that did not terminate would have gone on."""
    at = trajectory.payload.arrays["at"]
    ends = len(at) and (level is None or trajectory.terminated)
    return int(at[-1]) if ends else len(trajectory.payload.arrays["ids"])


def _keys(trajectories: Sequence[Trajectory], family: Laid) -> list[NDArray[np.int64]]:
    """What tells tokens apart, i64[T] each: the id, and for a placeholder its picture as well."""
    number: dict[str, int] = {}
    found = []
    for trajectory in trajectories:
        arrays, media = trajectory.payload.arrays, trajectory.payload.media
        keys = arrays["ids"][: _size(trajectory, family.reads)].astype(np.int64)
        if media:
            seen = (family.picture(sha, trajectory.sample) for sha in media)
            mine = np.asarray([0, *(number.setdefault(key, len(number) + 1) for key in seen)])
            shown = mine[np.searchsorted(arrays["media_at"], np.arange(len(keys)), side="right")]
            keys += np.where(keys == family.image_id, shown << 32, 0)
        found.append(keys)
    return found


def _paths(trajectories: Sequence[Trajectory], family: Laid) -> _Paths:
    found = _Paths([], _keys(trajectories, family), [])
    known: dict[tuple[bytes, tuple[str, ...]], NDArray[np.int64]] = {}
    for trajectory in trajectories:
        arrays, media = trajectory.payload.arrays, trajectory.payload.media
        size = _size(trajectory, family.reads)
        ids = np.asarray(arrays["ids"][:size], np.int32)
        starts = arrays["media_at"][arrays["media_at"] < size]
        media = media[: len(starts)]
        # Positions after the last picture follow from those before: rollouts that share their pictures share these.
        pictured = np.flatnonzero(ids == family.image_id)
        end = int(pictured[-1]) + 1 if len(pictured) else 1
        key = ids[:end].tobytes(), media
        if key not in known:
            known[key] = family.positions(ids[:end], media, trajectory.sample)
        places = np.concatenate([known[key], following(known[key], size - end)], 1)
        found.paths.append(Path(ids, places))
        first = pictured[np.searchsorted(pictured, starts)] if len(media) else pictured[:0]
        found.shown.append(list(zip(media, first.tolist(), strict=True)))
    return found


# -- cost ------------------------------------------------------------------------------------------------------------

# One token through the weights is 1. A layer's weights are some 12 width^2 numbers, a score takes 2 width operations
# twice, and what is not a large matrix product runs at a fraction of its speed; measured by benchmarks/layout.py.
_SCORE = 1 / 3
"""A score of an unmasked causal kernel, forward and backward, in tokens x width."""
_MASKED = 0.75
"""A score under a mask, hidden or not."""
_MERGED = 4.0
"""Merging a column's attention with that over one more segment, in tokens x width."""
_WORTH = 0.97
"""A tree is laid out if it saves at least so much by estimate: less is within the estimate's error, and padded rows are what
everything is compared with."""
_CALL = 200.0
"""A call of the kernel, in (tokens x width^2) ** .5."""


def _choose(keys: Sequence[NDArray[np.int64]], family: Laid) -> tuple[Kind, list[list[Node]], float]:
    """What to lay out, and its estimated cost."""
    everyone = range(len(keys))
    score = _SCORE / 2 if family.maskless else _MASKED  # a causal kernel skips half of a padded row's scores
    padded = rows_cost([len(k) for k in keys], family.width, score)
    found: tuple[Kind, list[list[Node]], float] = "padded", [[n] for n in alone(keys, everyone)], padded
    if family.options.layout == "padded" or not (family.packs or family.maskless):
        return found
    forced = family.options.layout == "shared"
    if family.maskless:
        forest = grow(keys, everyone, 0.0 if forced else least(keys, family.width))
        tree: tuple[Kind, list[list[Node]], float] = "tree", [forest], tree_cost(forest, family.width)
        return tree if forced or tree[2] < _WORTH * padded else found
    return _masked(keys, family, forced)


def least(keys: Sequence[NDArray[np.int64]], width: int) -> float:
    """Tokens that a node has to save in order to pay for the calls and merges that it costs."""
    return (_CALL / width) ** 2 + _MERGED / width * max(map(len, keys), default=0)


def tree_cost(forest: Sequence[Node], width: int) -> float:
    """Estimated cost of a row without a mask, in tokens."""
    cost = 0.0
    for root in forest:
        below: dict[int, int] = {}
        for node in reversed(list(root.walk())):
            rest = sum(below[id(child)] for child in node.children)
            below[id(node)] = rest + node.length
            scores = node.length * (node.length / 2 + rest)
            cost += node.length + scores * _SCORE / width
            cost += (rest > 0) * ((_CALL / width) ** 2 + rest * _MERGED / width)
    return cost


def rows_cost(lengths: Sequence[int], width: int, score: float) -> float:
    """Estimated cost of rows of these lengths, padded to the longest, in tokens; `score` is what one score costs."""
    longest = max(lengths, default=0)
    return len(lengths) * (longest + longest * longest * score / width)


def _masked(
    keys: Sequence[NDArray[np.int64]], family: Laid, forced: bool
) -> tuple[Kind, list[list[Node]], float]:
    """Rows under a mask: every tree in as many rows as are cheapest, or in no more (`forced`) than the mask's size asks
    for."""
    groups = [sorted({m for n in root.walk() for m in n.ends}) for root in grow(keys, range(len(keys)))]
    most = max(map(len, groups))
    best: tuple[Kind, list[list[Node]], float] | None = None
    for parts in range(1, most + 1):
        split = [np.array_split(np.asarray(group), min(parts, len(group))) for group in groups]
        forests = [grow(keys, part.tolist()) for many in split for part in many]
        lengths = [sum(n.length for root in forest for n in root.walk()) for forest in forests]
        cost = rows_cost(lengths, family.width, _MASKED)
        if parts < most and len(forests) * max(lengths) ** 2 * 4 > MASK_BYTES:
            continue
        if best is None or cost < best[2]:
            best = "shared" if parts == 1 else "padded" if parts == most else "parts", forests, cost
        if forced:
            break
    assert best is not None
    return best


def following(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Positions [axes, count] of text after a prefix at `places` [axes, P]: from its largest, one by one on every axis."""
    first = int(places.max()) + 1 if places.size else 0
    return np.tile(np.arange(first, first + count), (places.shape[0], 1))


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
