"""Steps that draw again, replay and pass prompts over, in whole runs: media stay known, and a resumed run is the same run."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from triune.core.recipe import Recipe
from triune.core.sample import EnvSpec, Sample
from triune.core.verdict import Component, Outcome, Verdict
from triune.data.embedded import SOURCES
from triune.envs import ENVIRONMENTS, Observation, Turn
from triune.loop import Loop
from triune.monitor.metric import Scored
from triune.monitor.store import Store
from triune.testing.models import picture
from triune.train import checkpoint

from .test_resume import same_run

Runs = Callable[..., Loop]


def lucky(text: str) -> float:
    """What says nothing of sense is right one time in four."""
    return float(zlib.crc32(text.encode()) % 4 == 0)


def judge_many(requests: Sequence[tuple[Sample, Sequence[Outcome]]], progress: Any) -> list[list[Verdict]]:
    def verdict(outcome: Outcome) -> Verdict:
        value = lucky(outcome.text)
        part = Component(name="lucky", value=value, weight=1.0, correct=value == 1, main=True)
        return Verdict(id=outcome.id, reward=value, components=(part,), correct=value == 1)

    return [[verdict(outcome) for outcome in outcomes] for _, outcomes in requests]


@pytest.fixture
def loops(recipe_file: Path, tmp_path: Path) -> Runs:
    """Loops over six stored rows with a picture each, two prompts x four rollouts a step."""

    def make(name: str, collect: str, *overrides: str, env: str | None = None) -> Loop:
        rows = tmp_path / "rows.jsonl"
        drawn = [SOURCES["counting/shapes"].draw(i, 0, "train") for i in range(6)]
        spec = EnvSpec(name=env) if env else None
        rows.write_text(
            "".join(
                s.model_copy(
                    update={"id": f"row-{i}", "env": spec, "meta": {"rate": i / 6}}
                ).model_dump_json()
                + "\n"
                for i, s in enumerate(drawn)
            )
        )
        keys = (
            f"data.sources=[{{name: mine, path: {rows}}}]",
            "data.heldout_per_source=0",
            "train.eval_every=0",
            "train.prompts_per_step=2",
            "train.minibatches_per_step=1",
            f"algo.collect={collect}",
        )
        loop = Loop(Recipe.load(recipe_file, (*keys, *overrides)), tmp_path / name)
        loop.judge.judge_many = judge_many  # type: ignore[assignment, method-assign]
        return loop

    return make


def trained(scored: Sequence[Scored]) -> list[Scored]:
    return [one for one in scored if not one.reason]


COLLECT = {
    "dynamic": "{dynamic: {kind: dynamic_sampling, max_batches: 4}}",
    "replay": "{replay: {kind: replay, capacity: 2}}",
    "both": "{replay: {kind: replay, replay_is: none}, dynamic: {kind: dynamic_sampling, max_batches: 3}}",
    "window": "{window: {kind: pass_rate, low: 0.1, high: 0.9, revisit: 0.3}}",
    "column": "{window: {kind: difficulty, column: rate, low: 0.3}}",
}


@pytest.mark.parametrize("kind", COLLECT)
def test_a_resumed_run_is_the_same_run(loops: Runs, tmp_path: Path, kind: str) -> None:
    steps = ("train.total_steps=6", "rollout.max_tokens=3")
    with loops("whole", COLLECT[kind], *steps) as whole:
        for _ in range(6):
            whole.step()
        whole.save()
    with loops("cut", COLLECT[kind], *steps) as cut:
        for _ in range(4):
            cut.step()
        cut.save()
        cut.step()  # lost
    with loops("cut", COLLECT[kind], *steps) as again:
        again.restore(checkpoint.latest(tmp_path / "cut"))
        for _ in range(2):
            again.step()
        again.save()
        assert again.batches == whole.batches
        assert again.batches >= 6
    same_run(tmp_path / "whole", tmp_path / "cut", 6)
    with Store(tmp_path / "whole", readonly=True) as store:
        names = store.names("train")
    prefix = {"both": "replay", "window": "difficulty", "column": "difficulty", "dynamic": "dynamic_sampling"}
    assert any(name.startswith(f"{prefix.get(kind, kind)}/") for name in names)


def test_what_an_earlier_batch_showed_stays_known(loops: Runs) -> None:
    """Groups of several batches, some prompts twice, are trained together; all that was drawn is reported."""
    with loops(
        "run", COLLECT["dynamic"], "train.total_steps=4", "train.freeze=[]", "rollout.max_tokens=3"
    ) as loop:
        seen = 0
        for _ in range(4):
            before = loop.batches
            scored = loop.step()
            assert len(scored) == 8 * (loop.batches - before)
            groups = {o.trajectory.group: o.reason for o in scored}
            assert len(groups) == 2 * (loop.batches - before)
            kept = {o.trajectory.group for o in trained(scored)}
            assert len(kept) <= 2
            assert all(groups[name] == "dynamic" for name in groups.keys() - kept)
            seen = max(seen, loop.batches - before)
        assert seen > 1


class Shows:
    """Answers every turn with a picture of its own."""

    number = 0

    def reset(self, sample: Sample, seed: int) -> None:
        self.seed = seed

    def step(self, text: str) -> Turn:
        return Turn(Observation(("look: ", picture(24, 24, self.seed % (1 << 30) + self.number))))

    def close(self) -> None:
        return


def test_pictures_of_tools_stay_known_when_a_step_draws_again(
    loops: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENTS._items, "shows", Shows)
    options = (
        "train.total_steps=3",
        "rollout.max_tokens=4",
        "rollout.max_turns=2",
        "train.rollouts_per_prompt=2",
    )
    with loops("run", COLLECT["dynamic"], *options, env="shows") as loop:
        loop.family.stop_ids = tuple(range(0, 4000, 2))  # so that turns end and the world is asked
        pictured = 0
        for _ in range(3):
            before = loop.batches
            scored = loop.step()
            if loop.batches - before > 1:
                pictured += sum(len(o.outcome.media) > 1 for o in trained(scored))
        assert pictured, [(o.outcome.ending, len(o.outcome.media), o.reason) for o in scored]


@pytest.mark.parametrize("how", ["stored_logprob_clip", "none"])
def test_what_tools_showed_is_replayed_with_the_row(
    loops: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Every rollout of a step is shown another picture than that of the step before; a checkpoint lies between."""
    monkeypatch.setitem(ENVIRONMENTS._items, "shows", Shows)
    collect = f"{{replay: {{kind: replay, replay_is: {how}, capacity: 1}}}}"
    options = (
        "train.total_steps=12",
        "rollout.max_tokens=4",
        "rollout.max_turns=2",
        "train.rollouts_per_prompt=2",
    )

    def talkative(loop: Loop) -> None:
        loop.family.stop_ids = tuple(range(0, 4000, 2))  # type: ignore[attr-defined]

    with loops("run", collect, *options, env="shows") as loop:
        talkative(loop)
        for number in range(4):
            Shows.number = number
            loop.step()
        loop.save()
    again = []
    with loops("run", collect, *options, env="shows") as loop:
        loop.restore(checkpoint.latest(tmp_path / "run"))
        talkative(loop)
        for number in range(4, 12):
            Shows.number = number
            again += [o for o in loop.step() if not o.drawn]
    assert any(len(o.trajectory.payload.media) > 1 for o in again)


def test_a_replayed_row_is_saved_as_one(loops: Runs, tmp_path: Path) -> None:
    overrides = ("train.total_steps=12", "rollout.max_tokens=3", "train.rollouts_per_prompt=3")
    with loops("run", COLLECT["replay"], *overrides) as loop:
        for _ in range(12):
            loop.step()
    with Store(tmp_path / "run", readonly=True) as store:
        rows = [(n, r) for n in store.steps("train") for r in store.rollouts("train", n)]
    again = [(n, r) for n, r in rows if "@" in r.id]
    assert again
    for step, row in again:
        assert row.version_max < step - 1
        assert row.id.endswith(f"@{row.version_min}")
        assert (row.correct, row.in_loss, row.reason) == (True, True, "")
        (gone,) = [r for n, r in rows if n == step and r.group == row.group and r.reason == "replay"]
        assert not gone.correct
