"""The value head: where it reads, what it is read from, what of it is saved."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from triune.core.sample import Sample
from triune.core.trajectory import Trajectory
from triune.envs import ENVIRONMENTS, Observation, Turn
from triune.policy.critic import FILE
from triune.policy.language import LanguageFamily
from triune.policy.options import LanguageOptions
from triune.rollout.episode import Conversations
from triune.rollout.scripted import ScriptedEngine
from triune.testing.models import demand, picture, sample, tiny, trajectories, write

VALUE = frozenset({"value"})
SHOWN = [picture(24, 24, 0), picture(40, 16, 1), picture(17, 50, 2)]


@ENVIRONMENTS.register("test_two_turns")
class TwoTurns:
    """Shows a picture after the first turn; after the second it ends, or (`endless`) shows another."""

    endless: ClassVar[bool] = False

    def reset(self, sample: Sample, seed: int) -> None:
        self.turn = 0

    def step(self, text: str) -> Turn:
        self.turn += 1
        if self.turn == 1 or self.endless:
            prefill = "Read" if self.turn == 1 and "?" in text else ""
            return Turn(Observation(("Look", SHOWN[self.turn])), prefill=prefill)
        return Turn(ending="stop_env")

    def close(self) -> None:
        return


def with_critic(kind: str = "qwen", *, taught: bool = True, **options: Any) -> LanguageFamily:
    critic = {name: options.pop(name) for name in ("level", "detach", "hidden") if name in options}
    family = tiny(kind, critic=critic, **options)
    if taught and family.critic is not None:
        generator = torch.Generator().manual_seed(1)
        for parameter in family.critic.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / family.width
    return family


def played(
    family: LanguageFamily, said: Sequence[Sequence[str]], *, endless: Collection[int] = ()
) -> list[Trajectory]:
    """One rollout for each script of turns, of one prompt; a turn that does not end in '…' ends with the stop token. The
    worlds of the rows `endless` go on, so that the limit of two turns cuts them."""
    stop, one = [family.chat.turn_end()], sample("s", SHOWN[0], env="test_two_turns")
    family.begin_step([one])
    made = []
    for rank, turns in enumerate(said):
        TwoTurns.endless = rank in endless
        ids = [family.encode(t.removesuffix("…")) + ([] if t.endswith("…") else stop) for t in turns]
        engine = ScriptedEngine({"s": ids}, family.stop_ids)
        talk = Conversations(family, engine, max_tokens=64, max_turns=2)
        (row,) = trajectories(talk.generate([one], demand(rollouts=1)))
        made.append(row.model_copy(update={"id": f"s#{rank}", "rank": rank}))
    return made


def values(family: LanguageFamily, rows: Sequence[Trajectory]) -> torch.Tensor:
    value = family.evaluate(family.pack(rows), want=VALUE).value
    assert value is not None
    return value


def by_hand(family: LanguageFamily, row: Trajectory, places: Sequence[int]) -> torch.Tensor:
    """Values from the model's own last hidden states at these tokens of a whole rollout."""
    ids = row.payload.arrays["ids"]
    whole = row.model_copy(update={"terminated": False})  # its path is then everything there is
    layout = family.pack([whole]).payload
    assert layout.rows.ids.shape[1] == len(ids)
    embeds = family.inputs(layout.rows.ids, layout.media, layout.owners)
    hidden = family.forward(embeds, layout.rows.positions, layout.rows.mask(embeds.dtype))[0]
    assert family.critic is not None
    return family.critic.net(hidden[list(places)])[:, 0]


# -- where it reads ------------------------------------------------------------------------------------------------


def test_before_every_token() -> None:
    family = with_critic(level="token")
    (row,) = played(family, [["How many circle?", "Read the number"]])
    batch = family.pack([row])
    count = len(row.decisions)
    assert batch.value_turn.tolist() == batch.turn.tolist() == list(range(count))
    assert batch.action.tolist() == row.decisions.turn.tolist()  # what was recorded stays
    assert batch.value_trajectory.tolist() == [0] * count
    at = row.payload.arrays["at"]
    torch.testing.assert_close(values(family, [row]), by_hand(family, row, at - 1), atol=1e-6, rtol=1e-6)


def test_before_every_turn() -> None:
    family = with_critic(level="step")
    (row,) = played(family, [["How many circle?", "Read the number"]])
    batch = family.pack([row])
    assert batch.value_turn.tolist() == [0, 1]
    assert batch.turn.tolist() == row.decisions.turn.tolist()
    origin, at = row.payload.arrays["origin"], row.payload.arrays["at"]
    first = [0, int(np.flatnonzero(row.decisions.turn == 1)[0])]
    assert row.decisions.forced[first[1]]  # the second turn begins with words that the harness put there
    last_of_prompt = [int(at[i]) - 1 for i in first]
    assert [origin[place] == 0 or origin[place] >= 3 for place in last_of_prompt] == [True, True]
    torch.testing.assert_close(
        values(family, [row]), by_hand(family, row, last_of_prompt), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("level", ["token", "step"])
def test_what_a_limit_cut_is_read_once_more(level: str) -> None:
    family = with_critic(level=level)
    said = [["circle", "Read"], ["circle", "Read"], ["circle", "Read…"]]
    over, cut, halved = played(family, said, endless=[1])
    assert (over.terminated, cut.ending, halved.ending) == (True, "max_turns", "overlong_turn")
    sizes = [len(values(family, [row])) for row in (over, cut, halved)]
    assert sizes[1] == sizes[0] + 1
    # What would have come next is in the rollout: the bootstrap is read where the third turn would begin.
    assert len(cut.payload.media) == len(over.payload.media) + 1
    assert cut.payload.arrays["origin"][-1] >= 3
    for row in (cut, halved):
        last = values(family, [row])[-1:]
        batch = family.pack([row])
        assert int(batch.value_turn[-1]) == int(batch.turn[-1]) + 1
        end = len(row.payload.arrays["ids"]) - 1
        torch.testing.assert_close(last, by_hand(family, row, [end]), atol=1e-6, rtol=1e-6)


def test_without_a_critic_nothing_is_kept_or_computed() -> None:
    plain = tiny("qwen")
    (cut,) = played(plain, [["circle", "Read"]], endless=[0])
    assert len(cut.payload.arrays["ids"]) == cut.payload.arrays["at"][-1] + 1
    assert "value" not in plain.provides
    # Rollouts of a policy that had one can still be scored by one that has none.
    reader = with_critic(level="step")
    (kept,) = played(reader, [["circle", "Read"]], endless=[0])
    assert len(kept.payload.arrays["ids"]) > len(cut.payload.arrays["ids"])
    played(plain, [["circle", "Read"]], endless=[0])
    with torch.no_grad():
        found, expected = (plain.evaluate(plain.pack([row])).logp for row in (kept, cut))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_judge_sees_the_same_with_and_without() -> None:
    outcomes = []
    for family in (tiny("qwen"), with_critic(level="step")):
        TwoTurns.endless = True
        one = sample("s", SHOWN[0], env="test_two_turns")
        family.begin_step([one])
        ids = [[*family.encode("circle"), family.chat.turn_end()]] * 2
        talk = Conversations(family, ScriptedEngine({"s": ids}, family.stop_ids), max_tokens=9, max_turns=2)
        ((episode,),) = talk.generate([one], demand(rollouts=1))
        outcomes.append(episode.outcome)
    assert outcomes[0] == outcomes[1]


def test_an_observation_that_does_not_fit_is_left_out() -> None:
    family = with_critic(level="step")
    TwoTurns.endless = True
    one = sample("s", SHOWN[0], env="test_two_turns")
    family.begin_step([one])
    ids = [[*family.encode("circle"), family.chat.turn_end()]] * 2
    engine = ScriptedEngine({"s": ids}, family.stop_ids)
    talk = Conversations(family, engine, max_tokens=9, max_turns=2, max_images=2)
    ((episode,),) = talk.generate([one], demand(rollouts=1))
    row = episode.trajectory
    assert (row.ending, len(row.payload.media)) == ("max_turns", 2)
    assert len(values(family, [row])) == 3  # the bootstrap is then read at the last token


# -- one computation in every layout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen", "gemma3", "llava"])
@pytest.mark.parametrize("level", ["token", "step"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_equals_padded(kind: str, level: str, attention: str) -> None:
    script = [
        ["How many circle?", "Read"],
        ["How many", "Read the number"],
        ["Which", "Which…"],
        ["Which", "circle"],
    ]
    found = []
    for layout in ("shared", "padded"):
        family = with_critic(kind, level=level, layout=layout, attention=attention)
        rows = played(family, script, endless=[3])
        family.model.zero_grad()
        value = values(family, rows)
        assert family.critic is not None
        (value * torch.linspace(-1, 1, len(value))).sum().backward()
        found.append((value.detach(), family.critic.net[0].weight.grad))
        alone = torch.cat([values(family, [row]) for row in rows])
        torch.testing.assert_close(value, alone, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-5)


def test_a_bfloat16_policy_has_a_float32_critic() -> None:
    family = with_critic(dtype="bfloat16", hidden=8)
    (row,) = played(family, [["circle", "Read"]])
    assert values(family, [row]).dtype == torch.float32
    assert {p.dtype for p in family.modules()["critic"].parameters()} == {torch.float32}


# -- what it starts from, and what learns --------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_new_critic_says_nothing_and_moves_nothing(hidden: int) -> None:
    family = with_critic(taught=False, hidden=hidden)
    (row,) = played(family, [["circle", "Read"]])
    value = values(family, [row])
    assert value.tolist() == [0.0] * len(value)
    (value - 1).square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in family.model.parameters())
    assert family.critic is not None
    assert family.critic.net[-1].weight.grad.any()
    assert any("critic starts at 0" in said for said in family.remarks)


@pytest.mark.parametrize("detach", [True, False])
def test_detached_it_leaves_the_backbone_alone(detach: bool) -> None:
    family = with_critic(detach=detach, hidden=8)
    (row,) = played(family, [["circle", "Read"]])
    values(family, [row]).sum().backward()
    moved = any(p.grad is not None and bool(p.grad.any()) for p in family.model.parameters())
    assert moved is not detach
    assert all(p.grad is not None for p in family.modules()["critic"].parameters())


def test_modules_hold_every_parameter_once() -> None:
    family = with_critic(hidden=8)
    held = [id(p) for module in family.modules().values() for p in module.parameters()]
    assert len(held) == len(set(held))
    assert family.critic is not None
    assert set(held) == {id(p) for m in (family.model, family.critic) for p in m.parameters()}


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_saved_and_loaded_bit_for_bit(lora: Any, tmp_path: Path) -> None:
    base = write("qwen", tmp_path / "base")
    options = {"path": str(base), "critic": {"hidden": 8}, "lora": lora, "attention": "eager"}
    family = LanguageFamily.from_pretrained(LanguageOptions.model_validate(options))
    assert family.critic is not None
    assert family.critic.fresh
    for parameter in family.critic.parameters():
        parameter.data += 0.5
    family.save(tmp_path / "model")
    saved = load_file(tmp_path / "model" / FILE)
    other = LanguageFamily.from_pretrained(LanguageOptions.model_validate(options))
    other.load(tmp_path / "model")
    again = LanguageFamily.from_pretrained(
        LanguageOptions.model_validate({**options, "path": str(tmp_path / "model")})
    )
    for one in (other, again):
        assert one.critic is not None
        state = one.critic.state_dict()
        assert state.keys() == saved.keys()
        assert all(torch.equal(state[name], saved[name]) for name in saved)
        assert not any("critic starts" in said for said in one.remarks)


def test_a_checkpoint_without_the_head_is_refused_and_a_start_without_it_is_said(tmp_path: Path) -> None:
    plain = write("qwen", tmp_path / "plain")
    family = with_critic(hidden=8)
    with pytest.raises(ValueError, match="saved by a policy without a critic"):
        family.load(plain)
    family.save(tmp_path / "wide")
    with pytest.raises(ValueError, match="of another critic"):
        with_critic(hidden=4).load(tmp_path / "wide")
    fresh = LanguageFamily.from_pretrained(
        LanguageOptions.model_validate({"path": str(plain), "critic": {}, "attention": "eager"})
    )
    assert any("critic starts at 0" in said for said in fresh.remarks)
