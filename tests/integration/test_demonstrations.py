"""Presets with demonstrations through a whole loop: what is placed, trained, gated, saved and reported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triune.algo.preset import load
from triune.core.errors import RecipeError
from triune.core.recipe import Recipe
from triune.core.sample import Response
from triune.data.mixture import Mixture
from triune.loop import Loop
from triune.monitor.metric import Metric
from triune.monitor.rollouts import Rollout
from triune.rollout.conversation import FORCED, MODEL

PRESETS = (
    "sft", "sft-is", "chord", "chord-mu", "chord-phi", "hpt", "hpt-soft", "prefix-rft", "sasr", "ahpo", "kdrl", "luffy",
    "srft", "grao", "sophia", "raft",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def recipe(preset: str, steps: int = 2, **algo: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": preset,
            "data": {"sources": [{"name": "embedded/counting/*"}], "heldout_per_source": 1},
            "policy": {"kind": "language", "path": "nano", "attention": "eager"},
            "rollout": {"kind": "native", "max_tokens": 12},
            "algo": {**load(preset).tried(), **algo},
            "train": {
                "total_steps": steps,
                "prompts_per_step": 2,
                "rollouts_per_prompt": 4,
                "freeze": ["vision", "connector"],
                "optimizer": {"lr": 1e-4},
            },
            "judge": {"workers": 0},
            "monitor": {"sinks": []},
        }
    )


def answered(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples with recorded answers: two descriptions, one of which led to right answers."""
    draw = loop.mixture.draw

    def drawn(number: int) -> Any:
        one = draw(number)
        assert one.expert is not None
        recorded = (
            Response(text=one.expert, score=1.0, branch="good"),
            Response(text="none", score=0.0, branch="bad"),
        )
        return one.model_copy(update={"responses": recorded})

    monkeypatch.setattr(loop.mixture, "draw", drawn)


class Watched(Loop):
    """A loop that keeps what its steps logged."""

    def __init__(self, recipe: Recipe, run_dir: Path) -> None:
        super().__init__(recipe, run_dir)
        self.logged: dict[int, list[Metric]] = {}
        log = self.monitor.log_step

        def kept(step: int, phase: str, *args: Any, **kwargs: Any) -> list[Metric]:
            found = log(step, phase, *args, **kwargs)
            if phase == "train":
                self.logged[step] = found
            return found

        self.monitor.log_step = kept  # type: ignore[method-assign]


def metrics(loop: Watched, step: int, name: str) -> list[Metric]:
    return [metric for metric in loop.logged[step] if metric.name == name]


def rows(loop: Loop, step: int) -> list[Rollout]:
    return loop.monitor.store.rollouts("train", step)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_a_step(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Watched(recipe(preset), tmp_path / "run") as loop:
        answered(loop, monkeypatch)
        before = [p.detach().clone() for m in loop.family.modules().values() for p in m.parameters()]
        done = loop.step()
        after = [p for m in loop.family.modules().values() for p in m.parameters()]
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) or not any(
            one.in_loss for one in done
        )
        assert all(torch.isfinite(p).all() for p in after)
        kinds = Counter(rollout.component for rollout in rows(loop, 1))
        own = 0 if preset in ("sft", "sft-is", "sophia") else 8
        placed = {"hpt-soft": {"expert": 2, "off_policy": 2}, "prefix-rft": {}, "kdrl": {}, "raft": {}}
        assert kinds == Counter({"policy": own} if own else {}) + Counter(placed.get(preset, {"expert": 2}))
        # What the monitor says of the policy is said of what it drew.
        assert sum(m.count for m in metrics(loop, 1, "completions/length")) == own - 2 * (
            preset == "prefix-rft"
        )


def test_what_was_placed_is_marked_in_the_saved_rollouts(tmp_path: Path) -> None:
    with Watched(recipe("chord"), tmp_path / "run") as loop:
        loop.check()
        loop.run()
        saved = rows(loop, 2)
        shown = [rollout for rollout in saved if rollout.component == "expert"]
        assert len(shown) == 2
        for rollout in shown:
            sample = Mixture.of(loop.recipe).batch(2)[
                [s.id for s in Mixture.of(loop.recipe).batch(2)].index(rollout.sample)
            ]
            assert rollout.response == loop.family.decode(loop.family.encode(sample.expert))  # type: ignore[attr-defined]
            assert (rollout.reason, rollout.in_loss, rollout.in_baseline) == ("placed", True, False)
            assert rollout.group == rollout.sample
            assert rollout.origin is not None
            assert (rollout.origin == FORCED).sum() == len(rollout.logp) > 0
            assert np.isnan(rollout.logp).all()
            assert rollout.response_tokens == 0
        own = [rollout for rollout in saved if rollout.component == "policy"]
        assert sum(m.count for m in metrics(loop, 2, "reward")) == len(own) == 8
        assert sum(m.total for m in metrics(loop, 2, "reward")) == sum(
            m.total for m in [Metric.of("reward", [r.reward or 0.0 for r in own])]
        )
        assert {m.label("component") for m in metrics(loop, 2, "placed/reward")} == {"expert"}
        assert sum(m.count for m in metrics(loop, 2, "placed/reward")) == 2
        assert {m.mean for m in metrics(loop, 2, "demonstrations/missing")} == {0.0}


def test_a_hint_is_placed_in_front_of_one_rollout(tmp_path: Path) -> None:
    with Watched(recipe("prefix-rft"), tmp_path / "run") as loop:
        loop.step()
        hinted = [rollout for rollout in rows(loop, 1) if rollout.reason == "prefixed"]
        assert [rollout.rank for rollout in hinted] == [3, 3]
        for rollout in hinted:
            assert (rollout.in_loss, rollout.in_baseline) == (True, False)
            said = rollout.origin[-len(rollout.logp) :]  # type: ignore[index]
            assert said[0] == FORCED
            assert said[-1] == MODEL
        assert {m.label("component") for m in metrics(loop, 1, "placed/reward")} == {"prefix"}
        assert sum(m.count for m in metrics(loop, 1, "reward")) == 6
        assert {m.mean for m in metrics(loop, 1, "prefix/missing")} == {0.0}


def test_a_gate_is_told_with_the_rows_that_it_took_out(tmp_path: Path) -> None:
    with Watched(
        recipe("hpt", adjust={"gate": {"kind": "gate_switch", "at_most": 99}}), tmp_path / "run"
    ) as loop:
        loop.step()
        fates = Counter((rollout.component, rollout.reason) for rollout in rows(loop, 1))
        assert fates == {("policy", "gated"): 8, ("expert", "placed"): 2}
        assert {m.label("mode") for m in metrics(loop, 1, "gate/share") if m.mean} == {"sft"}


def test_sasr_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    gate = {"kind": "gate_draw", "gamma": 1.0, "warmup": 1, "seed": 3}
    with Watched(recipe("sasr", 4, adjust={"gate": gate}), tmp_path / "whole") as loop:
        whole = [[(o.trajectory.id, o.reason) for o in loop.step()] for _ in range(3)]
    with Watched(recipe("sasr", 4, adjust={"gate": gate}), tmp_path / "cut") as loop:
        loop.step()
        saved = loop.save()
    with Watched(recipe("sasr", 4, adjust={"gate": gate}), tmp_path / "cut") as loop:
        loop.restore(saved)
        assert [[(o.trajectory.id, o.reason) for o in loop.step()] for _ in range(2)] == whole[1:]


def test_no_demonstration_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for preset in ("chord", "prefix-rft"):
        with Watched(recipe(preset), tmp_path / preset) as loop:
            draw = loop.mixture.draw
            monkeypatch.setattr(
                loop.mixture, "draw", lambda n, draw=draw: draw(n).model_copy(update={"expert": None})
            )
            with pytest.raises(RecipeError, match="none of the 2 samples of this step has"):
                loop.step()
