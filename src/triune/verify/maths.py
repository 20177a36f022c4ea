"""Mathematical equality through math-verify (sympy). The only module that imports it, and only when it is needed."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, JsonValue

from triune.core.sample import Sample
from triune.core.verdict import Outcome
from triune.verify.extract import (
    TEXT_COMMAND,
    AnswerParams,
    AnswerSource,
    boxes,
    chosen,
    normalise,
    read_answer,
    tag_body,
)
from triune.verify.verifier import Case, Context, InvalidReference, Score, Unparsed, Verifier, register

MAX_DEPTH = 50
"""Brackets within brackets of an answer; deeper ones are unparsed."""
MAX_FORMULA = 1_000
"""Characters of a formula, or twice those of the reference if that is more. The LaTeX reader takes seconds for as many."""

# Both sides in this form denote the integers they spell, so they are equal exactly when the texts are.
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_WORDS = re.compile(r"[^\W\d_]+(?:[\s'’.-]+[^\W\d_]+)*")
_CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d)?\s*(?:[AaPp]\.?[Mm]\.?)|\d{1,2}:00(?::\d\d)?")

_DELIMITED = re.compile(
    r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:(?!\\\)).)+)\\\)|\\\[((?:(?!\\\]).)+)\\\]", re.DOTALL
)
_ROMAN = re.compile(r"\\mathrm\s*\{\s*([ei])\s*\}")
_NATURAL = re.compile(r"\\log_(?:e\b|\{\s*e\s*\})")
_DIGIT_GROUP = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\[,:; !])(?=\d{3}(?!\d))")
_SPACED = re.compile(r"[+-]?\d{1,3}(?:[\s~\u2009\u202f]\d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d*)?)[eE]([+-]?\d{1,3})")
_COMMA_NUMBER = re.compile(r"([+-]?\d+(?:[.\s]\d{3})*)(?:,|\{,\})(\d+)(\s*\\?%)?")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
_SYMBOLS = {
    **dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", (f"^{{{n}}}" for n in range(10)), strict=True)),
    "−": "-",
    "°": r"^\circ ",
    "∞": r"\infty ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "±": r"\pm ",
    "÷": r"\div ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    **dict.fromkeys("€£¥₹₽₩\u200b", ""),
}
_TRANSLATION = str.maketrans(_SYMBOLS)


class MathParams(AnswerParams):
    """Of `math`, whose answers stand in a box. The last three are math-verify's own."""

    answer: AnswerSource = "boxed"
    ignore_case: bool = Field(
        False, description="A equals a, as in the released V-Triune code; its definition keeps them apart"
    )
    words: bool = Field(
        True,
        description="a reference made of words is compared as words; without, it is an invalid reference",
    )
    percent: Literal["either", "fraction"] = Field(
        "either", description="`fraction`: 28% equals 0.28; `either`: it equals 28 too, as in math-verify"
    )
    decimal: Literal["point", "comma"] = Field(
        "point", description="`comma` reads 2,5 as a number; with `point` it is the two numbers 2 and 5"
    )
    float_rounding: int = Field(
        default=6, ge=0, le=15, description="decimals to which a number with a decimal point is compared"
    )
    strict: bool = Field(True, description="names of variables count; without, f(x) equals f(y)")
    allow_set_relation_comp: bool = Field(
        False, description="the answer 0 < x < 1 equals the reference (0, 1); the converse always holds"
    )


class Rules(NamedTuple):
    """What of the parameters decides how two texts are compared."""

    decimal: str = "point"
    percent: str = "either"
    float_rounding: int = 6
    strict: bool = True
    allow_set_relation_comp: bool = False

    @staticmethod
    def of(params: MathParams) -> Rules:
        return Rules(*(getattr(params, name) for name in Rules._fields))


@register("math")
class Math(Verifier[MathParams, str]):
    """A-MATH: symbolic equality of the answer and the reference by math-verify, in a worker under a deadline.

    The reference may stand in a box or an answer block. One that sympy cannot parse is an invalid reference; one made
    of words is compared as words (as a product of letters, `silent` would equal `listen`). Letter case counts, since
    A and a are different quantities. Units are dropped: `5 cm` equals `5`, and `5 m` (`numeric` converts them); a power
    of a unit that is not in `\\mathrm{}` or `\\text{}` is one of letters, as in math-verify. Of several boxes the last
    counts, in a reference too, unless `several` says otherwise; `join` makes them one set, as math-verify does. Numbers
    with a decimal point are equal when they agree to `float_rounding` decimals and, unlike in math-verify, to a
    tenth of their size, so that small numbers are not all equal.

    As in math-verify, a reference `\\{1, 2\\}` or `1, 2` is met in any order, in round brackets too; a reference `(1, 2)`,
    which is a point or an interval, keeps its order and is met without its brackets too. Of `x = 4 = 3` the last side counts.
    """

    Params = MathParams
    version = "2"
    slow = True
    cases: ClassVar[Sequence[Case]] = (
        Case(r"\boxed{4}", 1.0, truth="4", correct=True),
        Case(r"\boxed{5}", 0.0, truth=4, correct=False),
        Case(r"\boxed{0.5}", 1.0, truth=r"\frac{1}{2}"),
        Case(r"\boxed{(x+1)^2}", 1.0, truth="x^2+2x+1"),
        Case(r"\boxed{2\sqrt{3}}", 1.0, truth=r"$\boxed{\sqrt{12}}$"),
        Case(r"\boxed{4.0}", 1.0, truth="<answer> 4 </answer>"),
        Case(r"\boxed{A}", 0.0, truth="a", correct=False),
        Case(r"\boxed{A}", 1.0, truth="a", params={"ignore_case": True}),
        Case(r"\boxed{\text{Red apple}}", 1.0, truth="Red apple"),
        Case(r"\boxed{silent}", 0.0, truth="listen"),
        Case(r"<think>\boxed{4}</think> \boxed{5}", 0.0, truth="4"),
        Case(r"<think>a</think><answer>\boxed{4}</answer>", 1.0, truth="4"),
        Case(r"<think>\boxed{4}", 0.0, truth="4", status="unparsed", correct=False),
        Case("the answer is 4", 0.0, truth="4", status="unparsed"),
        Case("<answer>4</answer>", 1.0, truth="4", params={"answer": "tag"}),
        Case(r"\boxed{\frac{1}{}", 0.0, truth="4", status="unparsed"),
        Case(r"\boxed{4}", None, truth=r"\frac{1}{", status="invalid_reference"),
        Case(r"\boxed{4}", None, truth="1/0", status="invalid_reference"),
        Case(r"\boxed{1/0}", 0.0, truth="4", correct=False),
        Case(r"\boxed{42}", 0.0, truth="forty two"),
        Case(r"\boxed{42}", None, truth="forty two", params={"words": False}, status="invalid_reference"),
        Case(r"\boxed{1} and \boxed{2}", 1.0, truth="2"),
        Case(r"\boxed{1} and \boxed{2}", 1.0, truth="1", params={"several": "first"}),
        Case(r"\boxed{1} and \boxed{2}", 1.0, truth=r"\{2, 1\}", params={"several": "join"}),
        Case(r"\boxed{1} and \boxed{2}", 0.0, truth="2", params={"several": "reject"}, status="unparsed"),
        Case(r"\boxed{28\%}", 1.0, truth="28"),
        Case(r"\boxed{28\%}", 1.0, truth="0.28"),
        Case(r"\boxed{28\%}", 0.0, truth="28", params={"percent": "fraction"}),
        Case(r"\boxed{28\%}", 1.0, truth="0.28", params={"percent": "fraction"}),
        Case(r"\boxed{28\%}", 0.0, truth="図書館", params={"percent": "fraction"}),
        Case(r"\boxed{1,22}", 0.0, truth="1.22"),
        Case(r"\boxed{1,22}", 1.0, truth="1.22", params={"decimal": "comma"}),
        Case(r"\boxed{12\,000}", 1.0, truth="12,000"),
        Case(r"\boxed{5\text{ cm}}", 1.0, truth="5"),
        Case(r"\boxed{5\,\mathrm{m}^2}", 1.0, truth="5"),
        Case(r"\boxed{5m^2}", 0.0, truth="5"),
        Case(r"\boxed{x=3}", 1.0, truth="3"),
        Case(r"\boxed{y=3}", 0.0, truth="x=3"),
        Case(r"\boxed{x=4=3}", 1.0, truth="3"),
        Case(r"\boxed{x=3=4}", 0.0, truth="3"),
        Case(r"\boxed{(2,1)}", 1.0, truth=r"\{1,2\}"),
        Case(r"\boxed{(2,1)}", 0.0, truth="(1,2)"),
        Case(r"\boxed{1,2}", 1.0, truth="(1,2)"),
        Case(r"\boxed{[1,2]}", 0.0, truth="(1,2)"),
        Case(r"\boxed{-2 \le x \le 7}", 0.0, truth="[-2,7]"),
        Case(r"\boxed{-2 \le x \le 7}", 1.0, truth="[-2,7]", params={"allow_set_relation_comp": True}),
        Case(r"\boxed{0.33}", 0.0, truth="1/3"),
        Case(r"\boxed{0.33}", 1.0, truth="1/3", params={"float_rounding": 2}),
        Case(r"\boxed{f(y)}", 0.0, truth="f(x)"),
        Case(r"\boxed{f(y)}", 1.0, truth="f(x)", params={"strict": False}),
        Case(r"\boxed{0.0000001}", 0.0, truth="0.0000002"),
        Case("<think>it is 4", 0.0, truth="4", params={"answer": "text"}, status="unparsed"),
        Case(r"so \boxed{4}", 0.0, truth="4", params={"prefill": "<think>"}, status="unparsed"),
        Case(r"so </think>\boxed{4}", 1.0, truth="4", params={"prefill": "<think>"}),
    )

    def load(self) -> None:
        """Imports sympy and fills its caches, so that the first answers of a run are as fast as the rest."""
        for gold, answer in ((r"\frac{1}{2}", "0.5"), ("x^2+1", r"x^2+\sqrt{1}"), ("12", r"4\cdot 3")):
            _equal(gold, answer, Rules())

    def prepare(self, truth: JsonValue, sample: Sample, params: MathParams) -> str:
        gold = _gold(truth, params)
        if not self.plain(truth, params):
            expression = _expression(gold, params.decimal)
            if expression is None or str(expression) in ("nan", "zoo"):
                raise InvalidReference(f"sympy reads {gold!r} as {expression}"[:200])
        return gold

    def plain(self, truth: JsonValue, params: MathParams) -> bool:
        """Whole numbers and words."""
        gold = _gold(truth, params)
        return _INTEGER.fullmatch(gold) is not None or _words(gold) is not None

    def quick(self, outcome: Outcome, truth: JsonValue, params: MathParams) -> Score | None:
        """Unreadable answers, canonical integers and words need no sympy."""
        gold, answer = _gold(truth, params), read_answer(outcome.text, params)
        equal = _without_sympy(gold, answer, params.ignore_case)
        if equal is None:
            _bounded(answer, gold)
            return None
        return _score(equal, answer, gold)

    def score(self, outcome: Outcome, reference: str, params: MathParams, context: Context) -> Score:
        answer = read_answer(outcome.text, params)
        equal = _without_sympy(reference, answer, params.ignore_case)
        if equal is None:
            _bounded(answer, reference)
            if _expression(answer, params.decimal) is None:
                raise Unparsed(f"sympy cannot parse {answer!r}"[:200])
            same_case = params.ignore_case or not params.strict or _same_case(reference, answer)
            equal = same_case and _equal(reference, answer, Rules.of(params))
        return _score(equal, answer, reference)


def _score(equal: bool, answer: str, reference: str) -> Score:
    return Score(float(equal), detail=f"{answer} for {reference}")


def _gold(truth: JsonValue, params: MathParams) -> str:
    """The reference's text: what stands in its box, or boxes, or block."""
    if isinstance(truth, bool) or not isinstance(truth, str | int | float):
        raise InvalidReference(f"an expression is needed, found {truth!r}"[:200])
    text = str(truth)
    try:
        text = tag_body(text) if "<answer>" in text else text
        if found := boxes(text):
            text = chosen(found, params.several or "last", "boxes in the reference")
    except Unparsed as reason:
        raise InvalidReference(str(reason)) from None
    text = text.strip()
    if not text:
        raise InvalidReference("the reference is empty")
    if not params.words and _words(text) is not None:
        raise InvalidReference(f"{text[:80]!r} is made of words")
    return text


def _without_sympy(gold: str, answer: str, ignore_case: bool) -> bool | None:
    """Whether they are equal where that is certain without algebra, else None."""
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return gold == answer
    gold_words, answer_words = _words(gold), _words(answer)
    if gold_words is not None and answer_words is not None:
        return normalise(gold_words, ignore_case) == normalise(answer_words, ignore_case)
    return None


def _words(text: str) -> str | None:
    """The text without its text commands, if it is words (letters only, three or more of them in a row somewhere) or
    a time of day, which sympy would take for a ratio."""
    plain = TEXT_COMMAND.sub(r"\1", text).strip().strip("$").rstrip(".")
    if _CLOCK.fullmatch(plain):
        return plain
    return plain if _WORDS.fullmatch(plain) and re.search(r"[^\W\d_]{3}", plain) else None


def _same_case(gold: str, answer: str) -> bool:
    """Whether each symbol that both use has the same case in both; sympy sees them lower-cased by its LaTeX reader."""
    cases = [_symbol_cases(gold), _symbol_cases(answer)]
    return all(cases[0][letter] == cases[1][letter] for letter in cases[0].keys() & cases[1].keys())


def _symbol_cases(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in re.findall(r"[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", text)):
        if len(run) <= 3:  # longer runs are words, such as units
            for letter in run:
                found.setdefault(letter.lower(), set()).add(letter)
    return found


def _bounded(answer: str, gold: str) -> None:
    """Raises Unparsed for what the LaTeX reader's time grows with fastest: depth of brackets, then length."""
    limit = max(MAX_FORMULA, 2 * len(gold))
    if len(answer) > limit:
        raise Unparsed(f"a formula of {len(answer)} characters, more than {limit}")
    depth = max(accumulate((char in "([{") - (char in ")]}") for char in answer), default=0)
    if depth > MAX_DEPTH:
        raise Unparsed(f"brackets are nested {depth} deep, more than {MAX_DEPTH}")


def _plain_latex(text: str, decimal: str) -> str:
    """The text in the LaTeX that math-verify reads rightly: no delimiters, ASCII where Unicode has signs, digits
    without separators that it would multiply at, scientific notation as a power, and a Roman e as a number."""
    if match := _DELIMITED.fullmatch(text.strip()):
        text = next(filter(None, match.groups()))
    text = _ROMAN.sub(r"\1", _ROOT.sub(r"\\sqrt{\1\2}", text).translate(_TRANSLATION)).strip()
    text = _NATURAL.sub(r"\\ln", text.replace("\\varnothing", "\\emptyset")).rstrip("\\")
    if decimal == "comma" and (match := _COMMA_NUMBER.fullmatch(text)):
        text = re.sub(r"[.\s]", "", match[1]) + "." + match[2] + (match[3] or "")
    text = _DIGIT_GROUP.sub("", text)
    if _SPACED.fullmatch(text):
        text = re.sub(r"[\s~\u2009\u202f]", "", text)
    if match := _SCIENTIFIC.fullmatch(text):
        text = f"{match[1]}\\times10^{{{int(match[2])}}}"
    return text


@lru_cache(maxsize=4096)
def _expression(text: str, decimal: str = "point") -> Any:
    """The sympy expression of a LaTeX text, or None. Imported here, so that the package stays cheap to import."""
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(
        logging.ERROR
    )  # it warns that its timeouts are off: the worker's rule
    found = parse(
        "\\boxed{" + _plain_latex(text, decimal) + "}",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return found[0] if found else None


@lru_cache(maxsize=4096)
def _equal(gold: str, answer: str, rules: Rules) -> bool:
    from math_verify import verify
    from sympy import UnevaluatedExpr  # type: ignore[import-untyped]  # it ships no types

    expected, found = _expression(gold, rules.decimal), _expression(answer, rules.decimal)
    if expected is None or found is None:  # words that sympy has no symbols for
        return False
    if rules.percent == "fraction":
        expected, found = (side.doit() if side.has(UnevaluatedExpr) else side for side in (expected, found))
    if rules.strict and _differ(expected, found, rules.float_rounding):
        return False
    return _same_decimals(expected, found, rules.float_rounding) or bool(
        verify(
            expected,
            found,
            timeout_seconds=None,
            raise_on_error=True,
            float_rounding=rules.float_rounding,
            strict=rules.strict,
            allow_set_relation_comp=rules.allow_set_relation_comp,
        )
    )


def _same_decimals(a: Any, b: Any, float_rounding: int) -> bool:
    """Whether two real numbers, one of them with a decimal point, agree to so many decimals. The library says so of
    fractions, but not of whole numbers: sympy's 4.0 is not its 4."""
    from sympy import Number

    numbers = isinstance(a, Number) and isinstance(b, Number) and a.is_finite and b.is_finite
    if not numbers or not (a.is_Float or b.is_Float):
        return False
    return bool(round(float(a), float_rounding) == round(float(b), float_rounding))


def _differ(a: Any, b: Any, float_rounding: int = 6) -> bool:
    """Whether two expressions certainly differ: at one point their values do, by far more than any rounding.

    Most answers of a policy are wrong, and to find two unequal expressions unequal is what costs `verify` most (it
    tries to simplify their difference). The point is positive, where the identities that it may use all hold. A
    percentage counts as its number too. Left alone is what it compares otherwise: single symbols by name, relations,
    sets, and what is slow to evaluate. Small numbers (that no cancellation made small) differ too when they are
    apart by more than a tenth of their size: rounded to decimals, as the library has it, all of them would be zero.
    """
    from sympy import (
        Add,
        Derivative,
        Expr,
        Integral,
        Limit,
        Product,
        Sum,
        UnevaluatedExpr,
    )

    for side in (a, b):
        if not isinstance(side, Expr) or side.is_Symbol:
            return False
        if side.has(Integral, Sum, Product, Limit, Derivative):
            return False
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    point = {symbol: 0.7391 + 0.3127 * n for n, symbol in enumerate(symbols)}
    values = []
    try:
        for side in (a, b):
            percent = side.has(UnevaluatedExpr)
            value = complex((side.doit() if percent else side).evalf(subs=point))
            values.append([value, 100 * value] if percent else [value])
    except (TypeError, ValueError, ArithmeticError):
        return False
    exact = not symbols and not a.has(Add) and not b.has(Add)
    return all(_apart(x, y, float_rounding, exact) for x in values[0] for y in values[1])


def _apart(x: complex, y: complex, float_rounding: int, exact: bool) -> bool:
    size, unit = max(abs(x), abs(y)), 10.0**-float_rounding
    if exact and size < 10 * unit:
        return abs(x - y) > 0.1 * size
    return abs(x - y) > max(1e-3, 2 * unit) * max(1.0, size)
