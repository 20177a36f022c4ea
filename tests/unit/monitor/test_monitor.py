from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from triune.core.errors import RecipeError, StorageError
from triune.core.sample import Media
from triune.core.verdict import Seen
from triune.monitor.metric import Metric, scalar
from triune.monitor.monitor import Monitor
from triune.monitor.sinks import RolloutSink, Speaking
from triune.monitor.source import rollout_metrics
from triune.monitor.store import Store

from .making import group, make_sample, make_scored, picture


class Recorder:
    def __init__(self, fails: bool = False) -> None:
        self.steps: list[tuple[int, str, int]] = []
        self.said: list[str] = []
        self.closed = 0
        self.fails = fails

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self.steps.append((step, phase, len(metrics)))

    def say(self, message: str) -> None:
        self.said.append(message)

    def close(self) -> None:
        self.closed += 1
        if self.fails:
            raise OSError("cannot flush")


def test_a_step(tmp_path: Path) -> None:
    scored = [*group([1.0, 0.0]), make_scored(None, rank=2, reason="timeout")]
    recorder = Recorder()
    assert isinstance(recorder, Speaking)
    assert not isinstance(recorder, RolloutSink)
    with Monitor(tmp_path, [recorder]) as monitor:
        logged = monitor.log_step(
            4, "train", scored, [scalar("loss", 0.5), scalar("loss", 1.5)], advantages=[1.0, -1.0, None]
        )
        assert monitor.store.steps() == [4]
    assert recorder.steps == [(4, "train", len(logged))]
    assert recorder.closed == 1
    assert [m for m in logged if m.name not in ("loss", "rollouts/kept")] == rollout_metrics(scored)
    with Store(tmp_path, readonly=True) as store:
        assert store.latest("loss", by=())[()].mean == 1.0
        assert store.latest("reward")["counting/shapes",].count == 2
        rows = store.rollouts("train", 4)
        assert [row.advantage for row in rows] == [1.0, -1.0, None]
        assert [row.reason for row in rows] == ["", "", "timeout"]
        assert store.media(rows[0].media[0]) is not None
        (drop,) = store.events("drop")
        assert drop.detail["sample"] == "counting/shapes/0"
        assert drop.detail["reason"] == "timeout"
        assert drop.source == "counting/shapes"


@pytest.mark.parametrize(("every", "kept"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (0, [])])
def test_which_rollouts_are_kept(tmp_path: Path, every: int, kept: list[int]) -> None:
    with Monitor(tmp_path, rollouts_every=every) as monitor:
        for step in (1, 2, 3, 4):
            monitor.log_step(step, "train", [make_scored(), make_scored(None, rank=1, reason="timeout")])
        monitor.log_step(3, "eval", [make_scored()])
        assert monitor.store.rollout_steps() == kept
        assert monitor.store.rollout_steps("eval") == [3]
        assert len(monitor.store.events("drop")) == 4  # dropped rollouts are never lost


def test_advantages_belong_to_rollouts(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor, pytest.raises(ValueError, match="1 advantages for 2 rollouts"):
        monitor.log_step(1, "train", group([1.0, 0.0]), advantages=[1.0])


def test_custom_words(tmp_path: Path) -> None:
    with Monitor(tmp_path, words=("hmm",)) as monitor:
        logged = monitor.log_step(1, "train", [make_scored(text="Hmm")])
    assert {m.label("word") for m in logged if m.name == "reflection/word"} == {"hmm"}


def test_resuming(tmp_path: Path) -> None:
    with Monitor(tmp_path, ["store", "jsonl"]) as monitor:
        for step in (1, 2, 3):
            monitor.log_step(step, "train", [make_scored()])
    with Monitor(tmp_path, ["store", "jsonl"]) as monitor:
        monitor.rewind(2)
        monitor.say("resumed", kind="resume", step=2, checkpoint="2.pt")
        assert monitor.store.steps() == [1, 2]
        monitor.log_step(3, "train", [make_scored(0.0)])
        (event,) = monitor.store.events("resume")
        assert event.detail == {"message": "resumed", "checkpoint": "2.pt"}
    steps = [line.split(",")[0] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == len([s for s in steps if s in ('{"step": 1', '{"step": 2')]) * 3 / 2


def test_messages_reach_who_can_show_them(tmp_path: Path) -> None:
    recorder = Recorder()
    with Monitor(tmp_path, [recorder, "jsonl"]) as monitor:
        monitor.say("probe: fine")
    assert recorder.said == ["probe: fine"]


def test_an_unknown_sink_leaves_the_run_free(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown sink 'wandbb'"):
        Monitor(tmp_path, ["wandbb"])
    Monitor(tmp_path).close()


def test_every_sink_is_closed_even_if_one_fails(tmp_path: Path) -> None:
    first, second = Recorder(), Recorder(fails=True)
    Monitor(tmp_path, [first, second]).close()
    assert first.closed == 1
    assert first.said == ["sink recorder failed at closing: OSError: cannot flush"]
    with Store(tmp_path) as store:  # the store was closed too
        (event,) = store.events("sink")
        assert event.detail["sink"] == "recorder"


def test_two_monitors_cannot_write_one_run(tmp_path: Path) -> None:
    with Monitor(tmp_path), pytest.raises(StorageError, match="already being written"):
        Monitor(tmp_path)


def test_the_store_sink_keeps_metrics_without_rollouts(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_step(1, "train", scalars=[scalar("loss", 1.0)])
        monitor.log_step(1, "run", scalars=[scalar("seconds", 1.0, phase="setup")])
        assert monitor.store.phases() == ["run", "train"]
        assert monitor.store.latest("seconds", phase="run", by=("phase",))["setup",].mean == 1.0


def test_samples_of_two_tasks(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_step(1, "train", [*group([1.0, 1.0]), *group([0.0, 1.0], make_sample(source="ocr/word"))])
        assert monitor.store.latest("correct", by=("task",))["ocr",].mean == 0.5
        assert monitor.store.latest("correct", by=())[()].mean == 0.75


def test_what_is_needed_to_look_at_a_rollout_is_kept_with_it(tmp_path: Path) -> None:
    drawn, other = Media.from_image(picture(7)), Media.from_image(picture(8))
    seen = Seen(sha256=drawn.sha256, original=drawn.size, processed=drawn.size)
    spelt: list[list[int]] = []

    def spell(ids: Sequence[int]) -> list[str]:
        spelt.append(list(ids))
        return [f"<{id}>" for id in ids]

    with Monitor(tmp_path) as monitor:
        monitor.spell = spell
        first = make_scored(tokens=2, outcome={"media": (seen,)})  # tokens 0 to 11
        monitor.log_step(1, "train", [first], advantages=[np.float32([0.5, 1.5])], shown=[drawn, other])
        monitor.log_step(2, "train", [make_scored(tokens=4)])
        monitor.log_step(3, "train", [make_scored(tokens=4)])
        store = monitor.store
        assert spelt == [list(range(12)), [12, 13]]  # each once
        assert store.pieces([3, 13, 99]) == {3: "<3>", 13: "<13>"}
        assert store.media(drawn.sha256) is not None
        assert store.media(other.sha256) is None
        (row,) = store.rollouts("train", 1)
        assert row.advantage == 1.0
        assert row.token_advantage is not None
        assert row.token_advantage.tolist() == [0.5, 1.5]
        sample = store.sample(row.sample_sha)
        assert sample is not None
        assert sample.truth == first.sample.truth
