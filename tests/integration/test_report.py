"""Two real runs, trained and compared through the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triune.cli import main
from triune.monitor.store import Store


def accuracy(run: Path) -> dict[str, float]:
    """Of the last evaluation, by sample."""
    with Store(run, readonly=True) as store:
        last = store.rollouts("eval", store.rollout_steps("eval")[-1])
    return {one.sample: one.accuracy for one in last if one.accuracy is not None}


def test_two_trained_runs_are_compared(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / "slow", tmp_path / "fast"]
    small = [
        "train.total_steps=1",
        "train.eval_every=1",
        "train.prompts_per_step=2",
        "train.rollouts_per_prompt=2",
    ]
    small += ["data.sources=[{name: embedded/counting/shapes}]", "train.minibatches_per_step=1"]
    for run, rate in zip(runs, ("1e-5", "1e-2"), strict=True):
        with pytest.raises(SystemExit) as ended:
            main(["train", str(recipe_file), *small, f"train.optimizer.lr={rate}", "--run-dir", str(run)])
        assert ended.value.code == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, runs), "--out", str(tmp_path / "out"), "--formats", "md"])
    assert ended.value.code == 0
    (file,) = capsys.readouterr().out.split()
    text = Path(file).read_text()
    first, second = map(accuracy, runs)
    assert first.keys() == second.keys()  # the same held-out samples
    gain = 100 * (np.mean(list(second.values())) - np.mean(list(first.values())))
    (row,) = [line.split(" | ") for line in text.splitlines() if line.startswith("| counting/shapes")]
    assert (row[1], row[4]) == (str(len(first)), f"{gain:+.1f}")
    assert "| train.optimizer.lr | 1e-05 | 0.01 |" in text
