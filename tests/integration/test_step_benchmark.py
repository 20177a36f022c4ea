"""The step benchmark compares like with like: TRL's loss and Triune's have one gradient."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/step.py"


def test_the_gradient_is_trls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("step_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    step = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "step_benchmark", step)
    spec.loader.exec_module(step)
    for name, size in {
        "WIDTH": 32,
        "LAYERS": 2,
        "FEED": 64,
        "HEADS": 2,
        "TOWER_WIDTH": 24,
        "TOWER_LAYERS": 2,
    }.items():
        monkeypatch.setattr(step, name, size)
    point = step.Point(96, 8, group_size=4, steps=1)
    step.build(tmp_path, point)
    found = step.child("cosine", step.beside(tmp_path), point, threads=1)
    assert found["cosine"] > 0.999
    assert found["norms"][0] == pytest.approx(found["norms"][1], rel=1e-3)
    assert found["norms"][0] > 0
