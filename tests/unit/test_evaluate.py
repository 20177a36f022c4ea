from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from triune.core.sample import Media, Sample
from triune.core.schedule import Progress
from triune.core.verdict import Outcome, Verdict
from triune.evaluate import answer
from triune.rollout.generator import Demand, Episode
from triune.testing.models import picture
from triune.testing.models import sample as make_sample


class Forgetful:
    """A family that holds what was shown until its next step, and a world that shows each sample another picture."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, str], tuple[str, Media]] = {}

    def begin_step(self, samples: Sequence[Sample]) -> None:
        self.shown.clear()

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        rows = []
        for sample in samples:
            medium = picture(seed=len(self.shown) + 100 * len(sample.id))
            self.shown[sample.id, medium.sha256] = sample.id, medium
            trajectory: Any = SimpleNamespace(id=sample.id)
            rows.append([Episode(sample, trajectory, Outcome(id=sample.id))])
        return rows

    def judge_many(
        self, requests: Sequence[tuple[Sample, Sequence[Outcome]]], progress: Progress
    ) -> list[list[Verdict]]:
        return [[Verdict(id=sample.id, reward=1.0, components=())] for sample, _ in requests]


def test_what_was_shown_in_earlier_batches_can_still_be_kept() -> None:
    world = Forgetful()
    part = cast("Any", world)
    samples = [make_sample("s" * number, text="?") for number in (1, 2, 3)]
    scored = answer(part, part, part, samples, batch=1)
    assert [one.sample.id for one in scored] == ["s", "ss", "sss"]
    assert {owner for owner, _ in world.shown.values()} == {"s", "ss", "sss"}
    answer(part, part, part, samples[:1])
    assert len(world.shown) == 1
