"""The examples of docs/monitor.md run."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from triune.monitor.metric import scalar
from triune.monitor.monitor import Monitor

from .making import group, make_sample, make_scored

DOCS = (Path(__file__).parents[3] / "docs" / "monitor.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", DOCS, re.DOTALL)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("docs")
    sample = make_sample(0)
    with Monitor(run_dir) as monitor:
        monitor.log_step(0, "eval-before", group([0.0], sample))
        for step in (1, 2):
            lost = make_scored(None, sample, rank=4, reason="timeout")
            monitor.log_step(
                step, "train", [*group([1.0, 1.0], sample), lost], [scalar("loss", float("nan"))]
            )
        monitor.log_step(2, "eval-after", group([1.0], sample))
    return run_dir


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.split("\n")[0][:40])
def test_every_query_runs_and_finds_something(run_dir: Path, query: str) -> None:
    with contextlib.closing(sqlite3.connect(run_dir / "metrics.sqlite")) as db:
        assert db.execute(query).fetchall()


def test_the_answers_are_the_right_ones(run_dir: Path) -> None:
    with contextlib.closing(sqlite3.connect(run_dir / "metrics.sqlite")) as db:
        rewards, accuracy, flat, unjudged, nonfinite, drops, spread, samples = (
            db.execute(query).fetchall() for query in QUERIES
        )
    assert rewards == [("counting/shapes", 1.0, 0.0, 2)]
    assert accuracy == [(0, "counting", 0.0, 1), (2, "counting", 1.0, 1)]
    assert flat == [("counting/shapes", 1.0)]
    assert unjudged == [("counting/shapes", "timeout", 2)]
    assert nonfinite == [("loss", "", "{}", 1, 2)]
    assert drops == [("timeout", "counting/shapes", 2, 1, 2)]
    assert spread == [("counting/shapes/0", 4, 1.0, 0.0)]
    assert samples == [("counting/shapes/0", 3, 4, 4)]


def test_rollouts_are_a_dataset(run_dir: Path) -> None:
    table = ds.dataset(str(run_dir / "rollouts" / "train")).to_table(
        filter=(ds.field("source") == "counting/shapes") & (ds.field("reward") > 0.9),
        columns=["step", "prompt", "response", "reward", "components", "media"],
    )
    assert table.num_rows == 4
