"""The embedded tasks: reproducible, honest about their truth, and disjoint between training and evaluation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from triune.core.schedule import Progress
from triune.core.verdict import Outcome, Seen
from triune.data.embedded import KINDS, SOURCES, TASKS, draw_scene
from triune.data.embedded.assets import assets
from triune.policy.nano.faults import faulty
from triune.verify.judge import Judge

EVAL = Progress(step=1, total_steps=1, phase="eval")


def outcome(sample, text: str) -> Outcome:
    seen = tuple(Seen(sha256=m.sha256, original=m.size, processed=m.size) for m in sample.media)
    return Outcome(id=sample.id, text=text, media=seen)


def test_eight_tasks_with_at_least_two_sources_each():
    assert set(TASKS) == {"math", "puzzle", "science", "chart", "detection", "grounding", "counting", "ocr"}
    for task in TASKS:
        assert sum(source.task == task for source in SOURCES.values()) >= 2


@pytest.mark.parametrize("name", SOURCES)
def test_the_careful_annotator_scores_full_marks(name):
    samples = [SOURCES[name].draw(i, 3, split) for split in ("train", "heldout") for i in range(4)]
    with Judge(workers=0) as judge:
        for sample in samples:
            judge.check(sample)
            verdict = judge.judge(sample, [outcome(sample, sample.expert)], EVAL)[0]
            assert verdict.reward == pytest.approx(1.0), (sample.messages, sample.expert, verdict)
            assert verdict.correct is True


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_never_scores_full_marks(kind):
    rng = np.random.default_rng(0)
    with Judge(workers=0) as judge:
        for index in range(6):
            scene = draw_scene(kind, 5, "train", index)
            for ask in scene.asks:
                if ask.answer.startswith("<answer>[]"):
                    continue
                sample = (
                    SOURCES[ask.source]
                    .draw(index, 5, "train")
                    .model_copy(update={"truth": ask.truth, "checks": ask.checks})
                )
                wrong = faulty(ask, rng)
                assert wrong != ask.answer
                assert judge.judge(sample, [outcome(sample, wrong)], EVAL)[0].reward < 1.0, (ask, wrong)


@pytest.mark.parametrize("name", SOURCES)
def test_a_sample_is_a_pure_function_of_its_place(name):
    first = SOURCES[name].draw(2, 7, "train")
    SOURCES[name].draw(9, 7, "train")  # drawing others in between changes nothing
    assert SOURCES[name].draw(2, 7, "train") == first
    others = [
        SOURCES[name].draw(3, 7, "train"),
        SOURCES[name].draw(2, 8, "train"),
        SOURCES[name].draw(2, 7, "heldout"),
    ]
    hashes = {sample.media[0].sha256 for sample in (first, *others)}
    assert len(hashes) == 4


def test_training_and_heldout_material_is_disjoint():
    train, heldout = assets("train"), assets("heldout")
    assert not set(train.fonts) & set(heldout.fonts)
    digits = [{image.tobytes() for group in side.digits for image in group} for side in (train, heldout)]
    assert not digits[0] & digits[1]
    assert sum(map(len, digits)) > 1700
    # Photographs are cut apart: no column of one side is a column of the other.
    for left, right in zip(train.photos, heldout.photos, strict=True):
        columns = [{side[:, x].tobytes() for x in range(side.shape[1])} for side in (left, right)]
        assert not columns[0] & columns[1]


def test_boxes_are_integer_tight_and_inside():
    for kind, index in itertools.product(("digits", "shapes"), range(20)):
        scene = draw_scene(kind, 1, "train", index)
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 < x2 <= 64
            assert 0 <= y1 < y2 <= 64
