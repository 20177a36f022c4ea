"""Recorded answers as episodes, and rollouts that continue one: what was placed is exact, forced and never the prompt's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from triune.core.errors import DataError, RecipeError, WindowExceeded
from triune.rollout.conversation import FORCED, MODEL, PROMPT
from triune.rollout.placed import place
from triune.rollout.starts import Start
from triune.testing.models import TINY, demand, picture, sample, talker, tiny

TEXT = "Three circle"


@pytest.mark.parametrize("kind", sorted(TINY))
def test_an_answer_becomes_forced_decisions_behind_the_usual_prompt(kind: str) -> None:
    family = tiny(kind)
    asked = sample("a", picture())
    family.begin_step([asked])
    wanted = demand(rollouts=2)
    (drawn,) = talker(family, max_tokens=3).generate([asked], wanted)
    made = place(family, asked, TEXT, wanted, component="expert", number=1)
    arrays, whole = made.trajectory.payload.arrays, drawn[0].trajectory.payload
    start = int(whole.arrays["at"][0])
    assert arrays["ids"][:start].tolist() == whole.arrays["ids"][:start].tolist()
    assert (arrays["origin"][:start] == whole.arrays["origin"][:start]).all()
    assert PROMPT in arrays["origin"][:start]
    said = arrays["ids"][start:].tolist()
    assert said[:-1] == family.encode(TEXT)
    assert said[-1] in family.stop_ids
    assert arrays["at"].tolist() == list(range(start, start + len(said)))
    assert set(arrays["origin"][start:].tolist()) == {FORCED}
    decisions = made.trajectory.decisions
    assert decisions.forced.all()
    assert np.isnan(decisions.logp).all()
    assert made.trajectory.payload.media == whole.media
    assert made.trajectory.rules == drawn[0].trajectory.rules  # banned modality tokens included
    assert (made.trajectory.group, made.trajectory.component) == ("a", "expert")
    assert (made.trajectory.rank, made.trajectory.id, made.outcome.id) == (3, "a#expert-1", "a#expert-1")
    assert (made.trajectory.terminated, made.trajectory.truncated) == (True, False)
    assert (made.outcome.text, made.outcome.num_tokens) == (family.decode(family.encode(TEXT)), 0)
    with torch.no_grad():
        together = family.evaluate(family.pack([drawn[0].trajectory, made.trajectory])).logp
        alone = family.evaluate(family.pack([made.trajectory])).logp
    torch.testing.assert_close(together[-len(said) :], alone, atol=1e-5, rtol=0)
    assert torch.isfinite(alone).all()


def test_what_cannot_be_placed_names_the_sample() -> None:
    family = tiny(sorted(TINY)[0], window=60)
    asked, wanted = sample("a", picture()), demand()
    family.begin_step([asked])
    stop = family.decode([family.stop_ids[0]])
    with pytest.raises(WindowExceeded, match=r"sample 'a': the prompt has .* Nothing is truncated"):
        place(family, asked, "How many " * 200, wanted, component="expert")
    with pytest.raises(
        DataError, match=r"sample 'a': the recorded answer contains .*cannot say within a turn"
    ):
        place(family, asked, f"one {stop} two", wanted, component="expert")
    with pytest.raises(DataError, match=r"sample 'a': the recorded answer contains"):
        place(family, asked, f"see {family.chat.placeholder}", wanted, component="expert")
    with pytest.raises(DataError, match="sample 'b' runs in the environment 'world'"):
        place(family, sample("b", env="world"), TEXT, wanted, component="expert")
    with pytest.raises(RecipeError, match="object says no text"):
        place(object(), asked, TEXT, wanted, component="expert")
    # An answer that was recorded with its end of turn has one, not two.
    ended = place(
        family,
        asked,
        TEXT + family.decode([family.chat.turn_end() or family.stop_ids[0]]),
        wanted,
        component="x",
    )
    assert ended.trajectory.payload.arrays["ids"].tolist() == (
        place(family, asked, TEXT, wanted, component="x").trajectory.payload.arrays["ids"].tolist()
    )


def test_a_start_is_a_floor_between_bounds() -> None:
    ids = list(range(20))
    assert [len(Start("", share).cut(ids)) for share in (0.0, 0.05, 0.5, 0.94, 0.95, 1.0)] == [
        1,
        1,
        10,
        18,
        19,
        19,
    ]
    assert [len(Start("", 0.1, least).cut(ids)) for least in (0, 1, 5, 50)] == [2, 2, 5, 19]
    assert Start("", 0.9).cut([7]) == []
    assert Start("", 0.9).cut([]) == []


@pytest.mark.parametrize("kind", sorted(TINY)[:2])
def test_a_rollout_continues_a_recorded_answer_and_leaves_the_others_alone(kind: str) -> None:
    family = tiny(kind)
    many = [sample("a", picture()), sample("b", text="Read")]
    family.begin_step(many)
    plain = demand(rollouts=3)
    text = "one two three four five six"
    begun = replace(plain, starts={("a", 2): Start(text, 0.5)})
    generator = talker(family, max_tokens=6)
    before, after = generator.generate(many, plain), generator.generate(many, begun)
    for one, other in zip(before[0][:2] + before[1], after[0][:2] + after[1], strict=True):
        assert one.outcome == other.outcome
        np.testing.assert_allclose(one.trajectory.decisions.logp, other.trajectory.decisions.logp, atol=1e-5)
    made = after[0][2].trajectory
    count = int(made.resolved["prefix.tokens"])
    assert (made.resolved["prefix.share"], count) == (0.5, (len(family.encode(text)) + 1) // 2)
    arrays = made.payload.arrays
    assert arrays["ids"][arrays["at"][:count]].tolist() == family.encode(text)[:count]
    assert made.decisions.forced.tolist() == [True] * count + [False] * (len(made.decisions) - count)
    assert arrays["origin"][arrays["at"]].tolist() == [FORCED] * count + [MODEL] * (
        len(made.decisions) - count
    )
    assert after[0][2].outcome.num_tokens == len(made.decisions) - count > 0
    with torch.no_grad():
        seen = family.evaluate(family.pack([made])).logp.numpy()
    np.testing.assert_allclose(seen[count:], made.decisions.logp[count:], atol=1e-5)


def test_a_start_that_leaves_no_room_names_the_sample() -> None:
    family = tiny(sorted(TINY)[0], window=60)
    asked = sample("a", picture())
    family.begin_step([asked])
    begun = replace(demand(), starts={("a", 0): Start("How many " * 200, 0.9)})
    with pytest.raises(WindowExceeded, match="sample 'a'"):
        talker(family).generate([asked], begun)
