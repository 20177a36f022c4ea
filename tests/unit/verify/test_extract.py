import pytest

from triune.verify.extract import MAX_ANSWER, last_boxed, normalise, read_answer, read_json, tag_body
from triune.verify.verifier import Unparsed


@pytest.mark.parametrize(
    ("text", "body"),
    [
        (r"\boxed{3}", "3"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {4}", "4"),
        (r"\\boxed{4}", "4"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{6} and \boxed{7", "6"),
        (r"} \boxed{8} {", "8"),
        (r"\boxed{9", None),
        (r"\boxed 9", None),
        ("9", None),
    ],
)
def test_last_boxed(text, body):
    assert last_boxed(text) == body


def test_boxes_that_never_close_cost_no_time():
    assert last_boxed("\\boxed{" * 200_000) is None


@pytest.mark.parametrize(
    ("text", "source", "answer"),
    [
        ("<think>a</think><answer> 3 </answer>", "tag", "3"),
        (r"<think>\boxed{1}</think><answer>\boxed{2}</answer>", "boxed", "2"),
        (r"<think>\boxed{1}</think> thus \boxed{2}", "boxed", "2"),
        (r"thoughts \boxed{1}</think> thus \boxed{2}", "boxed", "2"),
        ("<think>a</think> stop <|im_end|>\n", "text", "stop"),
        ("stop", "text", "stop"),
    ],
)
def test_read_answer(text, source, answer):
    assert read_answer(text, source) == answer


@pytest.mark.parametrize(
    ("text", "source", "reason"),
    [
        ("3", "tag", "found 0 openings"),
        ("<answer>1</answer><answer>2</answer>", "tag", "found 2 openings"),
        ("</answer>1<answer>", "tag", "comes before"),
        ("<answer> </answer>", "tag", "empty"),
        (r"<think>\boxed{1}", "boxed", "never closed"),
        (r"<think>\boxed{1}</think>", "boxed", "no balanced"),
        (r"\boxed{1}<answer>2</answer>", "boxed", "no balanced"),
        (r"<answer>\boxed{1}</answer><answer>\boxed{2}</answer>", "boxed", "found 2"),
        ("<think>a", "text", "never closed"),
        ("x" * (MAX_ANSWER + 1), "text", "characters"),
    ],
)
def test_read_answer_says_why_there_is_none(text, source, reason):
    with pytest.raises(Unparsed, match=reason):
        read_answer(text, source)


def test_other_tags_have_bodies_too():
    assert tag_body("<look>a</look>", "look") == "a"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2.5]", [1, 2.5]),
        ("```json\n[1]\n```", [1]),
        ("``` [1] ```", [1]),
        ("[1].", [1]),
        ("{'a': 'it\\'s'}", {"a": "it's"}),
        ("{'a': \"it's\"}", {"a": "it's"}),
        ("[(1, 2), None, True,]", [[1, 2], None, True]),
        ('{"a": "don\'t"}', {"a": "don't"}),
    ],
)
def test_read_json(text, value):
    assert read_json(text) == value


BROKEN = [
    "",
    "[1, 2",
    "[1] [2]",
    "see [1]",
    "__import__('os')",
    "[open('x')]",
    "{1, 2}",
    "{1: 2}",
    "[1+2j]",
    "[b'a']",
]
HEAVY = [
    "[" * 5000,
    "[" + "-" * 15000 + "1]",
    "[" + "9" * 5000 + "]",
    "[\x00]",
    "'a'",
    "[" + "1," * MAX_ANSWER + "]",
]


@pytest.mark.parametrize("text", [*BROKEN, *HEAVY])
def test_read_json_never_repairs_or_evaluates(text):
    with pytest.raises(Unparsed):
        read_json(text)


def test_normalise():
    assert normalise(" Ｆｕｌｌ　 width. ") == "Full width"
    assert normalise("STRASSE", lower=True) == normalise("straße", lower=True)
