"""Packed rows for any tree, and nano's tokenizer for any text."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from triune.policy.nano.tokenizer import build_tokenizer
from triune.policy.packing import Rows, Tree, choose_parts, pack, row_cost, text_tree

lengths = st.integers(0, 7)


@st.composite
def trees(draw: st.DrawFn) -> list[Tree]:
    """Trees whose ids are all different, so that a column is known by its id; positions on 1 or 3 axes."""
    axes, count, made = draw(st.sampled_from([1, 3])), 0, []
    for _ in range(draw(st.integers(1, 4))):
        prefix = np.arange(count + 1, count + 1 + draw(st.integers(1, 7)), dtype=np.int32)
        count += len(prefix)
        branches = []
        for _ in range(draw(st.integers(0, 4))):
            branches.append(np.arange(count + 1, count + 1 + draw(lengths), dtype=np.int32))
            count += len(branches[-1])
        along = [
            np.stack([10 * a + len(prefix) + np.arange(len(b), dtype=np.int64) for a in range(axes)])
            for b in branches
        ]
        places = np.stack([10 * a + np.arange(len(prefix), dtype=np.int64) for a in range(axes)])
        made.append(Tree(prefix, tuple(branches), places, tuple(along)))
    return made


def sees(rows: Rows) -> np.ndarray:
    """bool[R, L, L]: which query may look at which key."""
    return (rows.mask(torch.float32)[:, 0] == 0).numpy()


@given(trees())
def test_every_token_sees_its_own_path_and_nothing_else(made: list[Tree]) -> None:
    rows = pack(made, pad=0)
    mask = sees(rows)
    for row, tree in enumerate(made):
        ids = rows.ids[row].tolist()
        column = {token: index for index, token in enumerate(ids) if token}
        paths = [list(tree.prefix)] + [[*tree.prefix, *branch] for branch in tree.branches]
        expected = {int(token): set() for path in paths for token in path}
        for path in paths:
            for index, token in enumerate(path):
                expected[int(token)] = {column[int(t)] for t in path[: index + 1]}
        for token, seen in expected.items():
            assert set(np.flatnonzero(mask[row, column[token]])) == seen
        for index, token in enumerate(ids):
            if token == 0:  # padding looks at itself only, and nothing looks at padding
                assert np.flatnonzero(mask[row, index]).tolist() == [index]
                assert np.flatnonzero(mask[row, :, index]).tolist() == [index]


@given(trees())
def test_columns_positions_and_starts(made: list[Tree]) -> None:
    rows = pack(made, pad=0)
    assert rows.ids.shape == rows.segment.shape == rows.positions.shape[1:]
    for row, tree in enumerate(made):
        size = len(tree.prefix)
        assert rows.ids[row, :size].tolist() == tree.prefix.tolist()
        assert (rows.positions[:, row, :size].numpy() == tree.prefix_positions).all()
        for start, branch, places in zip(rows.start[row], tree.branches, tree.branch_positions, strict=True):
            assert rows.ids[row, start : start + len(branch)].tolist() == branch.tolist()
            assert (rows.positions[:, row, start : start + len(branch)].numpy() == places).all()
        assert int((rows.segment[row] >= 0).sum()) == tree.length == int((rows.ids[row] != 0).sum())


@given(trees())
def test_every_row_of_the_mask_has_something_to_see(made: list[Tree]) -> None:
    mask = pack(made, pad=0).mask(torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert mask.isfinite().all()
    assert (mask == 0).any(-1).all()


@given(
    st.integers(1, 500),
    st.lists(st.integers(0, 300), min_size=1, max_size=12),
    st.sampled_from([16, 160, 4096]),
)
def test_the_chosen_number_of_rows_is_the_cheapest(prefix: int, branches: list[int], width: int) -> None:
    def cost(parts: int) -> float:
        chunks = np.array_split(np.asarray(branches), parts)
        return sum(row_cost(prefix, chunk.tolist(), width) for chunk in chunks)

    parts = choose_parts(prefix, branches, width)
    assert 1 <= parts <= len(branches)
    assert cost(parts) <= min(cost(n) for n in range(1, len(branches) + 1)) * (1 + 1e-6)


def test_text_trees_count_along_each_path() -> None:
    tree = text_tree([7, 8], [[1, 2, 3], [], [4]])
    assert tree.prefix_positions.tolist() == [[0, 1]]
    assert [p.tolist() for p in tree.branch_positions] == [[[2, 3, 4]], [[]], [[2]]]


# -- token in, token out -------------------------------------------------------------------------------------------


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def ids_of(text: str) -> list[int]:
    return list(tokenizer()(text, add_special_tokens=False)["input_ids"])


def text_of(ids: Sequence[int]) -> str:
    return str(tokenizer().decode(list(ids), skip_special_tokens=False))


@given(st.text(max_size=60))
@example('<answer>[{"bbox_2d":[1,22,333,4],"label":"red circle"}]</answer>')
@example("<think>10 0100 \t\n  ﷽ é ñ 🟥</think>\\boxed{-12.50}")
@settings(max_examples=300)
def test_any_text_decodes_to_itself(text: str) -> None:
    # A special token's text is that token, which is why observations are cleaned of them; its decoding is the same.
    assert text_of(ids_of(text)) == text


@given(st.lists(st.integers(0, 340), min_size=1, max_size=30))
def test_ids_have_one_text_but_a_text_has_many_ids(ids: list[int]) -> None:
    """What a policy says need not be what its text encodes to: that is why nothing is ever encoded again."""
    known = [i for i in ids if i < len(tokenizer())]
    text = text_of(known)
    if "�" not in text:  # sampled bytes may be no text at all
        assert text_of(ids_of(text)) == text


def test_a_text_with_two_encodings_exists() -> None:
    said = [ids_of("1")[0], ids_of("0")[0]]
    assert text_of(said) == "10"
    assert ids_of("10") != said
