"""Preferences end to end: recorded pairs and pairs made from verdicts train a policy that sees, through the same loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from triune.core.errors import DataError
from triune.core.recipe import Recipe
from triune.core.sample import Response, Sample
from triune.data.source import EmbeddedSource
from triune.loop import Loop
from triune.rollout.preferred import preferred
from triune.train.implied import implied

NAME = "embedded/counting/shapes"


def pairs(split: Any, count: int, swapped: bool = False) -> list[Sample]:
    """Pictures of shapes with the right number and another one. Dealt at random (`swapped`), the labels say nothing."""
    source, made = EmbeddedSource(NAME, 0, split), []
    for index in range(count):
        sample = source.sample(index)
        assert isinstance(sample.truth, int)
        wrong = sample.truth + (1 if index % 2 or sample.truth == 0 else -1)
        labels: Any = ("rejected", "chosen") if swapped and index // 2 % 2 else ("chosen", "rejected")
        texts = (f"\\boxed{{{sample.truth}}}", f"\\boxed{{{wrong}}}")
        answers = tuple(Response(text=t, label=name) for t, name in zip(texts, labels, strict=True))
        made.append(sample.model_copy(update={"responses": answers, "source": "shapes"}))
    return made


def write(path: Path, samples: Sequence[Sample]) -> str:
    path.write_text("\n".join(sample.model_dump_json() for sample in samples))
    return str(path)


def recipe(folder: Path, algo: dict[str, Any], rows: Sequence[Sample], **change: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "pairs",
            "data": {"sources": [{"name": "shapes", "path": write(folder / "rows.jsonl", rows)}]},
            "policy": {
                "kind": "language",
                "path": "nano",
                "attention": "eager",
                "lora": {"rank": 8, "alpha": 16},
            },
            "rollout": "recorded",
            "algo": algo,
            "train": {
                "total_steps": 10,
                "prompts_per_step": 16,
                "freeze": ["vision", "connector"],
                "optimizer": {"lr": 3e-4, "warmup_fraction": 0.0},
            },
            "judge": {"workers": 0},
            "monitor": {"sinks": [], "rollouts_every": 0},
            **change,
        }
    )


@pytest.mark.parametrize("learns", [True, False])
def test_recorded_pairs_teach_what_is_preferred_of_new_pictures(tmp_path: Path, learns: bool) -> None:
    torch.set_num_threads(1)
    rows = pairs("train", 192, swapped=not learns)
    made = recipe(tmp_path, {"kind": "policy_gradient", "preset": "dpo"}, rows)
    with Loop(made, tmp_path / "run") as loop:
        loop.check()
        unseen = pairs("heldout", 64)
        before = implied(loop.family, unseen)["shapes"]
        assert before["accuracy"] == 0.5  # the policy is its reference: it prefers nothing
        loop.run()
        after = implied(loop.family, unseen)["shapes"]
    print(learns, after)
    if learns:
        assert after["accuracy"] >= 0.65
        assert after["margin"] > 0
    else:
        assert after["accuracy"] <= 0.6


def test_pairs_made_from_verdicts_raise_the_reward(tmp_path: Path) -> None:
    """On-policy DPO on one source: the best against the worst rollout of every group, by its own verdicts."""
    torch.set_num_threads(1)
    made = recipe(
        tmp_path,
        {"kind": "policy_gradient", "preset": "dpo-online"},
        pairs("train", 192),
        rollout={"kind": "native", "max_tokens": 24},
    )
    with Loop(made, tmp_path / "run") as loop:
        loop.check()
        rewards = []
        for _ in range(8):
            scored = loop.step()
            rewards.append(sum(one.verdict.reward or 0.0 for one in scored) / len(scored))
    first, last = sum(rewards[:3]) / 3, sum(rewards[-3:]) / 3
    print(f"{first:.3f} -> {last:.3f}")
    assert last >= first + 0.05


@pytest.mark.parametrize(
    "algo",
    [
        {"preset": "kto"},
        {"preset": "ipo"},
        {"preset": "orpo"},
        {"preset": "vpo", "terms": {"value": {"alpha": 0.01}}},
        {"preset": "opa-dpo"},
        {"preset": "copg", "terms": {"preference": {"beta": 0.5}}, "shape": {"labels": {"kind": "recorded"}}},
        {"terms": {"sft": {"kind": "imitation", "component": "policy"}}},
    ],
    ids=lambda algo: algo.get("preset", "sft"),
)
def test_offline_rules_run_through_the_same_loop(tmp_path: Path, algo: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    made = recipe(
        tmp_path,
        {"kind": "policy_gradient", **algo},
        pairs("train", 8),
        train={"total_steps": 2, "prompts_per_step": 4, "optimizer": {"lr": 1e-4, "warmup_fraction": 0.0}},
    )
    with Loop(made, tmp_path / "run") as loop:
        loop.check()
        before = [
            p.detach().clone() for p in loop.family.modules()["language"].parameters() if p.requires_grad
        ]
        loop.run()
        after = [p for p in loop.family.modules()["language"].parameters() if p.requires_grad]
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_evaluation_of_a_recorded_run_draws_its_answers(tmp_path: Path) -> None:
    made = recipe(tmp_path, {"kind": "policy_gradient", "preset": "dpo"}, pairs("train", 8))
    with Loop(made, tmp_path / "run") as loop:
        (one,) = loop.evaluate("eval", pairs("heldout", 1))
    assert not one.trajectory.decisions.forced.any()


def test_a_sample_without_recorded_answers_is_refused_or_skipped(tmp_path: Path) -> None:
    rows = pairs("train", 8)
    rows[3] = rows[3].model_copy(update={"responses": ()})
    algo = {"kind": "policy_gradient", "preset": "dpo"}
    train = {"total_steps": 1, "prompts_per_step": 8, "probe": False, "optimizer": {"lr": 1e-4}}
    refused = pytest.raises(DataError, match=f"{rows[3].id}.* has no `responses`")
    with Loop(recipe(tmp_path, algo, rows, train=train), tmp_path / "one") as loop, refused:
        loop.step()
    torn = rows[0].responses[0].model_copy(update={"label": "rejected"})
    rows[3] = rows[0].model_copy(update={"id": "torn", "responses": (*rows[0].responses, torn)})
    refused = pytest.raises(DataError, match=r"'torn'.* is recorded twice")
    with Loop(recipe(tmp_path, algo, rows, train=train), tmp_path / "two") as loop, refused:
        loop.step()
    data = {"sources": [{"name": "shapes", "path": str(tmp_path / "rows.jsonl")}], "on_bad_row": "skip"}
    with Loop(recipe(tmp_path, algo, rows, train=train, data=data), tmp_path / "three") as loop:
        assert len(loop.step()) == 14
        assert loop.skipped == {"shapes": 1}


def test_the_same_answer_to_another_picture_is_a_pair(tmp_path: Path) -> None:
    """Rows of the true and of a corrupted picture: preferred by construction, apart from the other pairs, and told apart by
    the policy that looks."""
    rows = pairs("train", 16)
    rows[0] = rows[0].model_copy(
        update={
            "responses": (
                Response(text="\\boxed{9}", label="chosen", emphasis=((7, 8, 3.0),)),
                *rows[0].responses,
            )
        }
    )
    rows[1] = rows[1].model_copy(update={"responses": rows[1].responses[1:]})
    made = recipe(tmp_path, {"kind": "policy_gradient", "preset": "opa-dpo"}, rows)
    with Loop(made, tmp_path / "run") as loop:
        scored = loop.step()
        by_component = {c: [o for o in scored if o.trajectory.component == c] for c in ("policy", "pictures")}
        # 33 - 1 answers, of which 16 are chosen, and the demonstration of the sample that has none: each is seen twice.
        assert [len(found) for found in by_component.values()] == [32, 34]
        for one in by_component["pictures"]:
            assert preferred(one.trajectory) == 1.0 - one.trajectory.rank
        twins = {one.trajectory.group: set[str]() for one in by_component["pictures"]}
        for one in by_component["pictures"]:
            twins[one.trajectory.group].update(one.trajectory.payload.media)
        assert all(len(media) == 2 for media in twins.values())
        (emphasised,) = [o for o in by_component["policy"] if o.trajectory.events]
        assert [(e.name, e.value) for e in emphasised.trajectory.events] == [("emphasis", 3.0)]
        names = loop.monitor.store.names()
        assert {"picture_pairs/none", "emphasis", "recorded/unknown", "pairs/none"} <= set(names)
