"""`triune send`: a run that is over goes to a sink as if it had been there from the start."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.dataset
import pytest

from triune.cli import main
from triune.core.errors import RecipeError, StorageError
from triune.monitor.metric import Metric, merge, scalar
from triune.monitor.monitor import Monitor
from triune.monitor.send import send_run
from triune.monitor.sinks import SINKS, Options, Run, Sink
from triune.monitor.store import Store

from .making import group


def _run(folder: Path, sinks: tuple[str, ...] = ()) -> None:
    with Monitor(folder, sinks) as monitor:
        monitor.log_step(0, "eval-before", group([0.0, 1.0]))
        for step in (1, 2):
            odd = Metric.of("tricky", [0.1, 0.2, 1e300, float("nan")], source="a/b", word='"é",\n')
            monitor.log_step(step, "train", group([0.1, 1.0, None]), [odd, scalar("loss", float("inf"))])
        monitor.log_step(2, "eval", group([1.0]))


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return sorted(
            csv.DictReader(lines), key=lambda row: (row["phase"], row["step"], row["name"], row["labels"])
        )


def test_what_is_sent_afterwards_is_what_was_written_meanwhile(tmp_path: Path) -> None:
    _run(tmp_path / "meanwhile", ("csv",))
    _run(tmp_path / "after")
    assert [(one.steps, one.failed) for one in send_run(tmp_path / "after", ["csv", "parquet"])] == [
        (4, "")
    ] * 2
    wanted, found = _rows(tmp_path / "meanwhile/metrics.csv"), _rows(tmp_path / "after/metrics.csv")
    timed = {"judge/seconds"}
    assert [row for row in found if row["name"] not in timed] == [
        row for row in wanted if row["name"] not in timed
    ]
    assert pyarrow.dataset.dataset(tmp_path / "after/metrics.parquet").count_rows() == len(found)


def test_metrics_that_are_read_again_merge_like_those_that_were_logged(tmp_path: Path) -> None:
    one = Metric.of("reward", [0.1, 0.7, 0.2], source="a")
    other = Metric.of("reward", [0.4, -3.0], source="b")
    with Store(tmp_path) as store:
        store.log_step(1, "train", [one, other])
        again, beside = store.metrics("train", 1)
    for moment in ("count", "mean", "std", "min", "max", "nonfinite"):
        assert getattr(again, moment) == getattr(one, moment)
    (merged,), (both,) = merge([again, beside], by=()), merge([one, other], by=())
    assert merged.mean == pytest.approx(both.mean, rel=1e-15)
    assert merged.std == pytest.approx(both.std, rel=1e-15)


def test_sending_twice_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, ("csv",))
    before = (tmp_path / "metrics.csv").read_bytes()
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["send", str(tmp_path), "csv"])
        assert ended.value.code == 0
    assert "csv: 4 steps" in capsys.readouterr().out
    assert len((tmp_path / "metrics.csv").read_bytes().splitlines()) == len(before.splitlines())


def test_one_sink_fails_and_the_other_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Options):
        def open(self, run: Run) -> Sink:
            return Breaking()

    class Breaking:
        def log(self, step: int, phase: str, metrics: object) -> None:
            if phase == "train":
                raise ConnectionError("no [bold] network")

        def close(self) -> None: ...

    _run(tmp_path)
    SINKS["csv"]  # the registry is filled before it is patched
    monkeypatch.setitem(SINKS._items, "broken", Broken)
    with pytest.raises(SystemExit) as ended:
        main(["send", str(tmp_path), "broken", "csv"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "broken: 1 steps; failed: ConnectionError: no [bold] network" in said
    assert "csv: 4 steps" in said


@pytest.mark.parametrize(
    ("sink", "reason"),
    [
        ("store", "nothing is sent to store"),
        ("console", "nothing is sent to"),
        ("nowhere", "unknown sink 'nowhere'"),
        ({"kind": "csv", "color": 1}, "Extra inputs"),
        ({"kind": "wandb", "examples": 3}, "examples are sent while a run goes on"),
    ],
)
def test_what_cannot_be_sent_to_is_said(sink: object, reason: str, tmp_path: Path) -> None:
    _run(tmp_path)
    with pytest.raises(RecipeError, match=reason):
        send_run(tmp_path, [sink])


def test_a_run_that_is_written_sends_by_itself(tmp_path: Path) -> None:
    with Monitor(tmp_path / "run", ()) as monitor:
        monitor.log_step(1, "train", group([1.0]))
        monitor.flush()
        with pytest.raises(StorageError, match="being written"):
            send_run(tmp_path / "run", ["csv"])
    with pytest.raises(StorageError):
        send_run(tmp_path / "none", ["csv"])
    assert not (tmp_path / "none").exists()
