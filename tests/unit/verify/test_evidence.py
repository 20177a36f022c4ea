"""A verdict says what was read and what was wanted, so that a wrong one can be seen without the code."""

from __future__ import annotations

import pytest

from triune.core.schedule import Progress
from triune.testing.cases import requests
from triune.verify.judge import Judge
from triune.verify.verifier import Case, verifiers


@pytest.mark.parametrize(
    ("name", "text", "truth", "detail"),
    [
        ("math", r"\boxed{12}", "13", "12 for 13"),
        ("math", r"\boxed{\frac{1}{2}}", "x + 1", r"\frac{1}{2} for x + 1"),  # by sympy
        ("text_exact", "<answer>Halt</answer>", ["Stop", "Go"], "Halt for Stop or Go"),
        ("edit_similarity", "<answer>stap</answer>", ["go", "stop"], "stap for stop"),
        ("count", r"\boxed{2}", 3, "2 for 3"),
        ("choice", r"\boxed{A}", "B", "A for B"),
    ],
)
def test_what_was_read_for_what_was_wanted(name: str, text: str, truth: object, detail: str) -> None:
    case = Case(text, 0.0, truth=truth, params={"answer": "boxed"} if "boxed" in text else {})
    ((sample, outcomes),) = requests(name, verifiers[name], case)
    with Judge(workers=0) as judge:
        (verdict,) = judge.judge(sample, outcomes, Progress(step=1, total_steps=1))
    assert verdict.components[0].detail == detail
