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
from triune.policy.packing import Path, Rows, alone, grow, pack, text_path


@st.composite
def families_of_keys(draw: st.DrawFn) -> list[np.ndarray]:
    """Paths over three tokens, so that many begin alike, end inside each other, or are the same."""
    return draw(
        st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=8).map(np.asarray), min_size=1, max_size=8)
    )


def packed(keys: Sequence[np.ndarray], least: float = 0.0, rows: int = 1, axes: int = 1) -> Rows:
    """The paths' trees, in one row or several; axis a counts from 10 a."""
    paths = [
        Path(k.astype(np.int32), np.stack([10 * a + np.arange(len(k)) for a in range(axes)])) for k in keys
    ]
    parts = [p for p in np.array_split(np.arange(len(keys)), rows) if len(p)]
    return pack([grow(keys, part.tolist(), least) for part in parts], paths, pad=0)


forests = given(
    families_of_keys(), st.sampled_from([0.0, 3.0, 9.0]), st.integers(1, 3), st.sampled_from([1, 3])
)


@forests
def test_every_token_sees_its_own_path_and_nothing_else(
    keys: list[np.ndarray], least: float, rows: int, axes: int
) -> None:
    made = packed(keys, least, rows, axes)
    mask = (made.mask(torch.float32)[:, 0] == 0).numpy()
    for index, key in enumerate(keys):
        row, columns = made.columns[index]
        assert made.ids[row, columns].tolist() == key.tolist()
        for axis in range(axes):
            assert made.positions[axis, row, columns].tolist() == [10 * axis + t for t in range(len(key))]
        for place, column in enumerate(columns):
            here = 0 if made.single else row  # a plain causal mask serves every row
            assert np.flatnonzero(mask[here, column]).tolist() == columns[: place + 1].tolist()
    used = {(row, int(column)) for row, columns in made.columns.values() for column in columns}
    for row, column in np.argwhere(
        made.until.numpy() == 0
    ):  # padding: looks at itself, and nothing looks at it
        assert (row, column) not in used
        if not made.single:
            assert np.flatnonzero(mask[row, column]).tolist() == [column]
            assert np.flatnonzero(mask[row, :, column]).tolist() == [column]


@given(families_of_keys())
def test_what_paths_share_is_there_once(keys: list[np.ndarray]) -> None:
    prefixes = {tuple(key[:end]) for key in keys for end in range(1, len(key) + 1)}
    made = packed(keys)
    assert sum(s.stop - s.start for s in made.segments[0]) == len(prefixes)
    apart = pack([[node] for node in alone(keys, range(len(keys)))], [text_path(k) for k in keys], 0)
    assert apart.single
    assert apart.ids.shape == (len(keys), max(map(len, keys)))


@given(families_of_keys(), st.floats(0, 20))
def test_a_node_that_saves_too_little_is_not_kept_apart(keys: list[np.ndarray], least: float) -> None:
    for root in grow(keys, range(len(keys)), least):
        for node in root.walk():
            assert not node.children or (len(node.children) - 1) * node.length > least


@forests
@settings(max_examples=60)
def test_attention_without_a_mask_is_attention_under_it(
    keys: list[np.ndarray], least: float, rows: int, axes: int
) -> None:
    made = packed(keys, least, rows)
    (count, length), draw = made.ids.shape, torch.Generator().manual_seed(len(keys))
    states = [
        torch.randn(count, heads, length, 8, dtype=torch.float64, generator=draw).requires_grad_()
        for heads in (4, 2, 2)
    ]
    weight = torch.randn(count, length, 4, 8, dtype=torch.float64, generator=draw)
    for row in range(count):  # what padding computes is nobody's
        seen = {int(c) for r, columns in made.columns.values() if r == row for c in columns}
        weight[row, [c for c in range(length) if c not in seen]] = 0.0
    found = made.attention()(0, *states, 0.3)
    query, key, value = states
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=made.mask(torch.float64), scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    for one, other in zip(
        (found * (weight != 0), *torch.autograd.grad((found * weight).sum(), states)),
        (expected * (weight != 0), *torch.autograd.grad((expected * weight).sum(), states)),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-10)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_a_deep_tree_of_turns_is_laid_out(turns: list[int]) -> None:
    """A conversation of many turns, and branches that leave it after each: as a path of nodes, one below the other."""
    trunk_ids = np.arange(1, sum(turns) + 2)
    ends = np.cumsum(turns)
    keys = [trunk_ids, *(np.append(trunk_ids[:end], 10_000 + i) for i, end in enumerate(ends))]
    made = packed(keys)
    assert sum(s.stop - s.start for s in made.segments[0]) == len(trunk_ids) + len(ends)
    assert max(s.until for s in made.segments[0]) == made.ids.shape[1]


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
