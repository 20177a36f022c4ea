"""Which rollouts are kept is declared per source; the rest is counted by its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from triune.core.errors import RecipeError
from triune.monitor.keep import Keep, footprint
from triune.monitor.metric import Scored
from triune.monitor.monitor import Monitor

from .making import group, make_sample

SHARES = {"counting": 0.0, "counting/shapes": 1.0, "ocr/word": 0.5}


def step_of(sources: list[str], groups: int = 20) -> list[Scored]:
    return [
        one
        for source in sources
        for number in range(groups)
        for one in group([1.0, 0.0, 0.0], make_sample(number, source=source))
    ]


def test_a_share_of_whole_groups_per_source_or_task(tmp_path: Path) -> None:
    scored = step_of(["counting/shapes", "counting/dots", "ocr/word", "math/word"])
    with Monitor(tmp_path, keep=SHARES, rollouts_every=2) as monitor:
        for step in range(1, 11):
            monitor.log_step(step, "train", scored)
        monitor.log_step(10, "eval", scored)
        kept = {step: monitor.store.rollouts("train", step) for step in monitor.store.rollout_steps()}
        assert list(kept) == [2, 4, 6, 8, 10]
        for rows in kept.values():
            by_group: dict[tuple[str, str], int] = {}
            for row in rows:
                by_group[row.source, row.group] = by_group.get((row.source, row.group), 0) + 1
            assert set(by_group.values()) == {3}
            numbers = [
                sum(source == name for source, _ in by_group) for name in ("counting/shapes", "math/word")
            ]
            assert numbers == [20, 20]
            assert not any(source == "counting/dots" for source, _ in by_group)
        assert 30 <= sum(row.source == "ocr/word" for rows in kept.values() for row in rows) / 3 <= 70
        assert len({row.group for rows in kept.values() for row in rows if row.source == "ocr/word"}) > 15
        assert len(monitor.store.rollouts("eval", 10)) == len(scored)

        points = monitor.store.series("rollouts/kept", by=("source",))
        assert [p.mean for p in points["counting/shapes",]] == [0.0, 1.0] * 5
        assert [p.mean for p in points["counting/dots",]] == [0.0] * 10
        lost = monitor.store.series("rollouts/unkept", by=("source", "reason"))
        assert [(p.step, p.count) for p in lost["counting/dots", "declared"]] == [
            (s, 60) for s in range(2, 11, 2)
        ]
        assert [(p.step, p.count) for p in lost["math/word", "every"]] == [(s, 60) for s in range(1, 11, 2)]
        assert ("math/word", "declared") not in lost
        for p in lost["ocr/word", "declared"]:
            assert p.count + sum(row.source == "ocr/word" for row in kept[p.step]) == 60


def test_a_resumed_run_keeps_the_same_ones() -> None:
    scored, again = step_of(["ocr/word"]), step_of(["ocr/word"])
    keep = Keep(1, {"ocr/word": 0.5})
    assert keep.reasons(3, "train", scored) == keep.reasons(3, "train", again[::-1])[::-1]
    assert keep.reasons(3, "train", scored) != keep.reasons(4, "train", scored)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (1.0, 300)])
def test_the_ends_are_exact(share: float, kept: int) -> None:
    scored = step_of(["ocr/word"], groups=100)
    assert Keep(1, {"ocr/word": share}).reasons(1, "train", scored).count("") == kept


def test_a_key_that_names_nothing_is_refused_with_what_there_is() -> None:
    samples = [make_sample(source="counting/shapes"), make_sample(source="ocr/word")]
    Keep(1, {"ocr": 0.1, "counting/shapes": 0.2}).refuse_unknown(samples)
    with pytest.raises(
        RecipeError, match=r"monitor\.keep: 'ocr/words'.*counting/shapes, ocr/word.*counting, ocr"
    ):
        Keep(1, {"ocr/words": 0.1}).refuse_unknown(samples)


def test_a_sample_that_a_group_shares_counts_once() -> None:
    one, two = group([1.0], make_sample(0)), group([1.0, 1.0], make_sample(0))
    picture = len(one[0].sample.media[0].data or b"")
    assert picture > 0
    assert footprint(two) - footprint(one) == footprint(one) - picture
