"""What the server says of rollouts, where the browser's tests do not look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from triune.core.errors import StorageError
from triune.core.sample import Media
from triune.core.verdict import Component, Seen
from triune.monitor.dash.rollout import MAX_TEXT, MAX_TOKENS, described
from triune.monitor.dash.routes.rollouts import (
    evaluations,
    group,
    pairs,
    rollout,
    rollouts,
    sample,
    step_range,
)
from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store

from .making import make_sample, make_scored, picture


def logged(run_dir: Path, rollouts: list[Rollout], media: list[Media] | None = None) -> Store:
    with Store(run_dir) as store:
        store.log_step(1, "train", [], rollouts, media or [], pieces={10 + n: f"<{n}>" for n in range(10)})
    return Store(run_dir, readonly=True)


def test_steps_as_they_are_typed() -> None:
    assert [step_range(text) for text in ("12", "10-20", "10 - 20", "10-", "-20", "", "-")] == [
        (12, 12), (10, 20), (10, 20), (10, None), (None, 20), (None, None), (None, None),
    ]  # fmt: skip
    for text in ("x", "1-2-3", "1.5", "9" * 30):
        with pytest.raises(ValueError, match="not a step or a range of steps"):
            step_range(text)


def test_a_rollout_of_an_older_run_shows_its_prompt_as_text(tmp_path: Path) -> None:
    """Without its sample: pictures stand where the prompt says `<image>`, unless it speaks of that itself."""
    sample = make_sample(1, prompt="two shapes?")
    known = replace(Rollout.of(1, "train", make_scored(1.0, sample)), sample_sha="")
    odd = replace(known, prompt="<image> What does <image> mean?")
    with logged(tmp_path, [known, odd], list(sample.media)) as store:
        first, second = (described(store, one, n) for n, one in enumerate(store.rollouts("train", 1)))
    assert not first["known"]
    assert [block.get("picture", block.get("text")) for block in first["messages"][0]["blocks"]] == [
        0,
        "two shapes?",
    ]
    assert [block.get("picture", block.get("text")) for block in second["messages"][0]["blocks"]] == [
        0,
        odd.prompt,
    ]
    assert first["pictures"][0]["size"] == (64, 64)


def test_tokens_are_cut_aligned_or_explained(tmp_path: Path) -> None:
    plain = Rollout.of(1, "train", make_scored(1.0, make_sample(1), tokens=6))
    many = Rollout.of(
        1, "train", make_scored(1.0, make_sample(2), tokens=MAX_TOKENS + 5, text="x" * (MAX_TEXT + 7))
    )
    crooked = replace(plain, logp=plain.logp[:3])
    without = replace(plain, ids=None, origin=None)
    credited = replace(plain, token_advantage=np.array([0, 1, -1, 0.5, 0, 2], np.float32))
    with logged(tmp_path, [plain, many, crooked, without, credited]) as store:
        found = [described(store, one, n)["tokens"] for n, one in enumerate(store.rollouts("train", 1))]
        cut, whole = (described(store, store.rollouts("train", 1)[1], 1, whole=w) for w in (False, True))
    (run,) = found[0]["runs"]
    assert run["pieces"] == [f"<{n}>" for n in range(6)]
    assert run["logp"] == pytest.approx(np.linspace(-1, -0.1, 6), abs=1e-6)
    assert run["decision"] == list(range(6))
    assert run["advantage"] is None
    assert found[4]["runs"][0]["advantage"] == [0, 1, -1, 0.5, 0, 2]
    assert "3 log-probs do not fit 6 tokens" in found[2]["problem"]
    assert "keeps no tokens" in found[3]["problem"]
    assert (cut["tokens"]["more"], whole["tokens"]["more"]) == (5, 0)
    assert (cut["response"]["more"], whole["response"]["more"]) == (7, 0)
    assert "the text is not known" in cut["tokens"]["note"]  # of ids from 20 on


def test_what_a_component_adds(tmp_path: Path) -> None:
    """Weight x value over what the sum was divided by; nothing where the reward is not that sum."""
    parts = (
        Component(name="a", value=0.5, weight=2.0, correct=True),
        Component(name="b", value=1.0, weight=2.0, gated=True),
        Component(name="c", value=1.0, weight=1.0, correct=True),
    )
    base = replace(Rollout.of(1, "train", make_scored(1.0)), components=parts)
    rows = [replace(base, reward=reward) for reward in (2.0, 0.4, 0.7, None)]
    with logged(tmp_path, rows) as store:
        shares = [
            [part["share"] for part in described(store, one, 0)["components"]]
            for one in store.rollouts("train", 1)
        ]
    assert shares == [[1.0, 0.0, 1.0], [0.2, 0.0, 0.2], [None] * 3, [None] * 3]


def test_pictures_that_changed_or_cannot_be_shown(tmp_path: Path) -> None:
    sample = make_sample(1)
    met = Seen(sha256=sample.media[0].sha256, original=(128, 128), processed=(64, 64))
    scored = make_scored(1.0, sample, outcome={"media": (met,)})
    with logged(tmp_path, [Rollout.of(1, "train", scored)], list(sample.media)) as store:
        file = store.media(sample.media[0].sha256)
        assert file is not None
        changed = rollout(store, "train", 1, 0)["pictures"][0]
        file.write_bytes(b"not a picture")
        broken = rollout(store, "train", 1, 0)["pictures"][0]
    assert (changed["shown"], changed["problem"]) == (
        True,
        "the file has 64 x 64 pixels, the policy met 128 x 128",
    )
    assert (broken["shown"], broken["problem"]) == (False, "this file is no picture, or is damaged")
    assert broken["size"] == (128, 128)  # its boxes are still drawn to scale


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with logged(tmp_path, [Rollout.of(1, "train", make_scored(1.0))]) as store:
        with pytest.raises(StorageError, match="step 1 of train has 1 kept rollouts: there is no number 1"):
            rollout(store, "train", 1, 1)
        with pytest.raises(StorageError, match="step 9 of train has 0 kept rollouts"):
            group(store, "train", 9, 0)
        with pytest.raises(ValueError, match="not an evaluation: 'eval'"):
            pairs(store, before="eval", after="eval:1")
        assert evaluations(store) == []
        (file,) = tmp_path.glob("rollouts/train/*.parquet")
        file.write_bytes(b"PAR1")
        with pytest.raises(StorageError, match=file.name):
            rollout(store, "train", 1, 0)


def test_pairs_say_what_became_of_each_sample(tmp_path: Path) -> None:
    values = {"eval-before": [0.0, 1.0, 1.0, None], "eval-after": [1.0, 0.0, 1.0, 1.0]}
    with Store(tmp_path) as store:
        for step, (phase, judged) in enumerate(values.items()):
            rows = [
                make_scored(value, make_sample(n, media=(Media.from_image(picture(n)),)))
                for n, value in enumerate(judged)
            ]
            rows += [make_scored(1.0, make_sample(90 + step))]  # in one of them only
            store.log_step(step, phase, [], [Rollout.of(step, phase, one) for one in rows])
        found = pairs(store)
        improved = pairs(store, kind="improved")
    assert (found["before"], found["after"]) == ("eval-before:0", "eval-after:1")
    assert found["counts"] == {"improved": 1, "regressed": 1, "right both times": 1, "not judged": 1}
    assert found["unpaired"] == 2
    assert [pair["after"]["sample"] for pair in improved["pairs"]] == ["counting/shapes/0"]
    assert (improved["pairs"][0]["before"]["reward"], improved["pairs"][0]["after"]["reward"]) == (0.1, 1.0)


def test_a_missing_or_damaged_file_leaves_the_others_in_the_list(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for step in (1, 2, 3):
            store.log_step(
                step, "train", [], [Rollout.of(step, "train", make_scored(1.0, make_sample(step)))]
            )
    first, second, _ = sorted(tmp_path.glob("rollouts/train/*.parquet"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-40])
    with Store(tmp_path, readonly=True) as store:
        found = rollouts(store, order="step")
        alone = sample(store, "counting/shapes/1", "counting/shapes")
    assert [row["step"] for row in found["rows"]] == [1, 2, 3]
    assert ["answer" in row for row in found["rows"]] == [False, False, True]
    assert all(any(file.name in problem for problem in found["problems"]) for file in (first, second))
    assert alone["first"] is None
    assert any(first.name in problem for problem in alone["problems"])
