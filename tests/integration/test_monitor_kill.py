"""A run whose writer is killed at a random moment opens again, with everything that was flushed."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_nothing_before_the_last_flush_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from monitoring.kill import look, trials

    found = list(trials(tmp_path, 8, seed=1))
    assert [(trial.opened, trial.faults) for trial in found] == [(True, ())] * 8
    assert all(trial.found >= trial.flushed >= 3 for trial in found)
    # The check itself sees what is missing.
    (tmp_path / "run000" / "rollouts" / "train" / "00000001.parquet").unlink()
    assert look(tmp_path / "run000", found[0].flushed).lost > 0
    assert look(tmp_path / "run001", found[1].found + 9).lost > 0
