"""Demonstrations and recorded answers: where each format has them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from triune.core.errors import DataError
from triune.core.sample import Response, Sample
from triune.data.adapters import ADAPTERS
from triune.data.source import TableSource

ASKED = [{"role": "user", "content": "How many?"}]
PAIR = (Response(text="3", label="chosen"), Response(text="4", label="rejected"))


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def read(folder: Path, kind: str, row: dict[str, Any], **options: Any) -> Sample:
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return TableSource(str(folder / "rows.jsonl"), ADAPTERS[kind](kind=kind, **options)).sample(0)


@pytest.mark.parametrize(
    ("row", "expert", "responses"),
    [
        ({"prompt": ASKED, "chosen": said("3"), "rejected": said("4")}, None, PAIR),
        ({"prompt": "How many?", "chosen": "3", "rejected": "4"}, None, PAIR),
        ({"chosen": ASKED + said("3"), "rejected": ASKED + said("4")}, None, PAIR),
        ({"prompt": ASKED, "completion": said("3")}, "3", ()),
        ({"prompt": "How many?", "completion": "3"}, "3", ()),
        ({"prompt": ASKED, "completion": said("3"), "label": True}, None, PAIR[:1]),
        ({"prompt": ASKED, "completion": said("4"), "label": False}, None, PAIR[1:]),
        ({"messages": ASKED + said("3")}, "3", ()),
    ],
)
def test_trl_rows(
    row: dict[str, Any], expert: str | None, responses: tuple[Response, ...], tmp_path: Path
) -> None:
    sample = read(tmp_path, "trl", row | {"solution": 3})
    assert (sample.expert, sample.responses, sample.truth) == (expert, responses, 3)
    assert [m.text for m in sample.messages] == ["How many?"]
    # An answer that was rejected says nothing of the truth.
    shown = expert or next((r.text for r in responses if r.label == "chosen"), None)
    assert read(tmp_path, "trl", row, truth="").truth == shown


PLAIN = {"prompt": "How many?", "chosen": "3", "rejected": "4"}


@pytest.mark.parametrize(
    ("columns", "scores"),
    [
        ({}, (None, None)),
        ({"margin": 2}, (2.0, 0.0)),
        ({"score_chosen": 9.0, "score_rejected": 7.5}, (9.0, 7.5)),
        ({"chosen_score": 1, "rejected_score": 1}, (1.0, 1.0)),
    ],
)
def test_a_pair_may_say_how_much_better_the_chosen_answer_is(
    columns: dict[str, float], scores: tuple[float | None, float | None], tmp_path: Path
) -> None:
    sample = read(tmp_path, "trl", PLAIN | columns, truth="")
    assert tuple(answer.score for answer in sample.responses) == scores
    assert [answer.label for answer in sample.responses] == ["chosen", "rejected"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": " 3\n"}, "same answer"),
        ({"margin": -1.0}, "which is preferred"),
        ({"score_chosen": 1.0, "score_rejected": 2.0}, "which is preferred"),
        ({"score_chosen": float("nan"), "score_rejected": 2.0}, "which is preferred"),
        ({"margin": "much"}, "margin"),
    ],
)
def test_a_row_without_a_preference_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, "trl", PLAIN | change, truth="")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": ASKED, "chosen": said("3") + ASKED, "rejected": "4"}, "'chosen' must be .* got 2 turns"),
        ({"prompt": ASKED, "chosen": ASKED, "rejected": "4"}, "got role 'user'"),
        ({"prompt": ASKED, "chosen": said("<image>"), "rejected": "4"}, "shows 1 image"),
        ({"chosen": said("3"), "rejected": said("4")}, "share no prompt"),
        ({"chosen": ASKED + said("3"), "rejected": ASKED + said("3")}, "share no prompt .* nothing but one"),
        ({"prompt": ASKED, "completion": said("3"), "label": "good"}, "'label' must be a bool"),
        ({"prompt": ASKED, "completion": 3}, "'completion' must be a list"),
    ],
)
def test_answers_that_are_none(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"row 0: .*{message}"):
        read(tmp_path, "trl", row | {"solution": 3})


def test_any_format_can_name_columns(tmp_path: Path) -> None:
    row = {
        "question": "How many?",
        "answer": "3",
        "shown": "one, two, three: 3",
        "tried": [
            "3",
            {"text": "4", "label": "rejected", "score": None, "branch": None},
            {"text": "three", "score": 1, "branch": "a"},
        ],
    }
    sample = read(tmp_path, "hf", row, image="", expert="shown", responses="tried")
    assert sample.expert == "one, two, three: 3"
    assert sample.responses == (
        Response(text="3"),
        Response(text="4", label="rejected"),
        Response(text="three", score=1.0, branch="a"),
    )
    assert read(tmp_path, "hf", row | {"tried": "3"}, image="", responses="tried").responses == (
        Response(text="3"),
    )
    plain = read(tmp_path, "hf", row, image="")
    assert (plain.expert, plain.responses) == (None, ())


@pytest.mark.parametrize(
    ("tried", "message"),
    [
        (None, "field 'tried' is null"),
        ([3], r"tried\[0\]: "),
        (["3", {"text": "4", "label": "worse"}], r"tried\[1\].label: .*'chosen' or 'rejected'"),
        ([{"text": "4", "score": float("nan")}], r"tried\[0\].score: .*finite"),
        ([{"label": "chosen"}], r"tried\[0\].text: "),
    ],
)
def test_columns_that_hold_no_answers(tried: Any, message: str, tmp_path: Path) -> None:
    row = {"question": "How many?", "answer": "3", "tried": tried}
    with pytest.raises(DataError, match=f"row 0: .*{message}"):
        read(tmp_path, "hf", row, image="", responses="tried")
    with pytest.raises(DataError, match="row 0: field 'shown' is missing"):
        read(tmp_path, "hf", row, image="", expert="shown")


def test_swift_pairs(tmp_path: Path) -> None:
    row = {"messages": ASKED + said("3"), "rejected_response": "4", "solution": 3}
    sample = read(tmp_path, "swift", row)
    assert (sample.expert, sample.responses) == (None, PAIR)
    with pytest.raises(DataError, match="rejected_response needs an assistant turn"):
        read(tmp_path, "swift", row | {"messages": ASKED})
