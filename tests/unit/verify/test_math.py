"""What the symbolic verifier adds to math-verify: exact shortcuts that agree with it, and words."""

import time
from itertools import combinations

import pytest

from triune.core.sample import Check
from triune.verify import maths
from triune.verify.extract import normalise

EXPRESSIONS = [
    *[
        "0.5",
        r"\frac{1}{2}",
        r"50\%",
        r"\sqrt{8}",
        r"2\sqrt{2}",
        "x+1",
        "x^2+2x+1.0",
        "(x+1)^2",
        "1",
        r"e^{i\pi}",
        "xy",
    ],
    *["x=3", r"\sqrt{x^2}", "|x|"],
]


def test_the_numeric_shortcut_never_contradicts_the_library():
    """It may only say 'different' where math-verify says so after its simplifications."""
    from math_verify import verify

    shortcuts = 0
    pairs = list(combinations(EXPRESSIONS, 2))
    for a, b in pairs:
        x, y = maths._expression(a), maths._expression(b)
        if maths._differ(x, y):
            shortcuts += 1
            assert not verify(x, y, timeout_seconds=None, raise_on_error=True), (a, b)
    assert shortcuts > len(pairs) / 2


@pytest.mark.parametrize("a", ["0", "7", "-7", "12", "100000000000000000"])
@pytest.mark.parametrize("b", ["0", "7", "-7", "21", "100000000000000001"])
def test_the_integer_shortcut_agrees_with_the_library(a, b):
    assert maths._without_sympy(a, b, False) is maths._equal(a, b)


@pytest.mark.parametrize("text", ["007", "+7", "7.0", "-0", "1,000", "1" * 19])
def test_other_spellings_of_integers_go_to_the_library(text):
    assert maths._without_sympy("7", text, False) is None


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("listen", "silent", False),
        ("dog", "god", False),
        ("Sub-Saharan Africa", r"\text{Sub-Saharan  Africa}.", True),
        ("red", "Red", False),
        ("abc", r"a\cdot b \cdot c", None),
        ("AB", "BA", None),
    ],
)
def test_words_are_words(gold, answer, equal):
    assert maths._without_sympy(gold, answer, False) is equal
    assert normalise(gold)


def test_a_step_of_short_answers_is_cheap(judge, make_sample, make_outcomes, progress):
    """About 0.1 s on two free cores; the bound leaves room for busy ones."""
    spelt = [*("{}.5", r"\frac{{{}}}{{7}}", r"{}\sqrt{{3}}", r"{}\%", "{}x+1", "{}")]
    requests = [
        (
            make_sample(Check(verifier="math"), id=f"s{n}", truth=spelt[n % 6].format(n + 1)),
            make_outcomes(*[rf"\boxed{{{spelt[k % 6].format(n + k)}}}" for k in range(8)]),
        )
        for n in range(13)
    ]
    judge.judge_many(requests[:1], progress)
    started = time.perf_counter()
    verdicts = judge.judge_many(requests, progress)
    elapsed = time.perf_counter() - started
    assert all(v.status == "ok" for group in verdicts for v in group)
    assert elapsed < 5.0
