"""The example that the documentation gives to authors of verifiers is run as it stands."""

import re
from pathlib import Path

import pytest

from triune.verify.verifier import Context, Job, run, verifiers

PAGE = Path(__file__).parents[3] / "docs" / "verifiers.md"


def test_the_example_runs(monkeypatch, make_sample, make_outcomes, progress):
    monkeypatch.setattr(verifiers, "_items", dict(verifiers._items))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    source = next(block for block in blocks if "@register" in block)
    assert len(source.splitlines()) < 45
    names = {"__name__": "example"}
    exec(compile(source, str(PAGE), "exec"), names)
    cls = names["Permutation"]
    for case in cls.cases:
        job = Job(
            cls(),
            cls.Params(),
            Context(make_sample("permutation", truth=case.truth), progress),
            (*make_outcomes(case.text),),
        )
        (score,) = run(job)
        assert (score.status, score.value) == (case.status, pytest.approx(case.value))
        assert case.correct in (None, score.correct)
