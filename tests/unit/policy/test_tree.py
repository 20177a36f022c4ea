"""Rollouts as a tree: branches that share more than the prompt, turns, pictures in the trunk and in a branch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triune.core.sample import Media
from triune.core.trajectory import Decisions, Payload, SamplingRule, Trajectory
from triune.envs import Observation
from triune.policy import layout
from triune.policy.language import LanguageFamily
from triune.testing.models import picture, sample, tiny

SHOWN = [picture(24, 24, 0), picture(40, 16, 1), picture(17, 50, 2)]


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def family(request: pytest.FixtureRequest) -> LanguageFamily:
    """Three rotary axes; without a mask, and under one."""
    made = tiny("qwen", attention=request.param)
    assert made.maskless is (request.param == "sdpa")
    return made


def episode(
    family: LanguageFamily, name: str, said: list[list[int]], seen: list[Media | None], fork: int = 0
) -> Trajectory:
    """A conversation about the first picture: turns of ids, an observation (text, and maybe a picture) between them. With
    `fork`, it owns only the decisions after that many."""
    segments = [family.prompt(sample("s", SHOWN[0]))]
    segments += [family.observation(Observation(("Look", *([m] if m else []))), "s") for m in seen]
    ids, at, media_at, media, turns = [], [], [], [], []
    for turn, segment in enumerate(segments):
        media_at += [len(ids) + start for start in segment.starts]
        media += [s.sha256 for s in segment.seen]
        ids += segment.ids.tolist()
        at += range(len(ids), len(ids) + len(said[turn]))
        turns += [turn] * len(said[turn])
        ids += said[turn]
    return Trajectory(
        id=name, sample="s", source="s", task="s", group="s", parent="trunk" if fork else None, fork=fork,
        rules=((0, SamplingRule(banned=family.banned)),),
        decisions=Decisions.of([-1.0] * len(at[fork:]), turn=turns[fork:]),
        payload=Payload(
            family="language", media=tuple(media),
            arrays={
                "ids": np.asarray(ids, np.int32), "at": np.asarray(at[fork:], np.int32),
                "media_at": np.asarray(media_at, np.int32),
            },
        ),
    )  # fmt: skip


words = st.lists(st.sampled_from([40, 41]), min_size=1, max_size=4)
"""Few words, so that turns often begin or are alike."""
episodes = st.lists(
    st.tuples(st.lists(words, min_size=3, max_size=3), st.lists(st.sampled_from([None, 1, 2]), max_size=2)),
    min_size=1,
    max_size=5,
)


@given(episodes, st.integers(0, 2))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_log_probs_of_any_tree_are_those_of_each_path_alone(
    family: LanguageFamily, drawn: list[tuple[list[list[int]], list[int | None]]], fork: int
) -> None:
    made = [
        episode(
            family, str(i), said, [None if n is None else SHOWN[n] for n in seen], min(fork, len(said[0]))
        )
        for i, (said, seen) in enumerate(drawn)
    ]
    made = [t for t in made if len(t.decisions)]
    shared = family.options.model_copy(update={"layout": "shared"})
    with torch.no_grad():
        alone = torch.cat([family.evaluate(family.pack([t])).logp for t in made] or [torch.zeros(0)])
        family.options, before = shared, family.options
        try:
            batch = family.pack(made) if made else None
            together = family.evaluate(batch).logp if batch else alone
        finally:
            family.options = before
    assert torch.allclose(alone, together, atol=2e-5)


def test_a_branch_shares_its_trunk_and_owns_what_comes_after(family: LanguageFamily) -> None:
    trunk = episode(family, "trunk", [[40, 41, 42], [43, 44]], [SHOWN[1]])
    branch = episode(family, "branch", [[40, 41, 42], [43, 50]], [SHOWN[1]], fork=4)
    other = episode(family, "other", [[40, 41, 42], [43, 44]], [SHOWN[2]])
    assert len(branch.decisions) == 1
    apart = sum(layout.weigh([t], family)[0] for t in (trunk, branch, other))
    tokens, vision = layout.weigh([trunk, branch, other], family)
    pictures = {m.sha256: family.pictures[m.sha256].tokens for m in SHOWN}
    assert vision == sum(pictures.values())  # the prompt's once, and each observation's own
    assert tokens < apart / 2
    # The branch's only path is its trunk's: what it adds is predicted, and computed by nobody.
    assert layout.weigh([trunk], family)[0] == layout.weigh([trunk, branch], family)[0]


def test_any_cut_into_micro_batches_gives_the_same_gradient(family: LanguageFamily) -> None:
    made = [
        episode(family, str(i), [[40, 41 + i % 2, 45 + i], [43, 44]], [SHOWN[1 + i % 2]]) for i in range(6)
    ]
    weight = torch.linspace(-1, 1, sum(len(t.decisions) for t in made)) / 6
    found = []
    for cuts in ([6], [2, 4], [1, 1, 3, 1]):
        family.model.zero_grad()
        start = first = 0
        for count in cuts:
            part = made[first : first + count]
            logp = family.evaluate(family.pack(part)).logp
            (logp * weight[start : start + len(logp)]).sum().backward()
            start, first = start + len(logp), first + count
        found.append(torch.cat([p.grad.flatten() for p in family.model.parameters() if p.grad is not None]))
    family.model.zero_grad()
    assert found[0].norm() > 0.1
    for other in found[1:]:
        assert (other - found[0]).norm() <= 1e-6 * found[0].norm()


def test_the_mask_stays_small(family: LanguageFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [episode(family, str(i), [[40 + i] * 6, [43, 44]], [None]) for i in range(8)]
    whole = family.pack(made).payload.choice
    monkeypatch.setattr(layout, "MASK_BYTES", whole.mask_bytes // 4)
    cut = family.pack(made).payload.choice
    if family.maskless:
        assert cut == whole
        assert (cut.layout, cut.mask_bytes) == ("tree", 0)
        return
    assert cut.rows > whole.rows
    assert cut.mask_bytes <= whole.mask_bytes // 4
    assert "mask" in str(cut)
