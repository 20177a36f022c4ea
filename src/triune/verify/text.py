"""Text answers: equality and edit distance. The truth is a text, or a list of texts any of which will do."""

from __future__ import annotations

from pydantic import Field, JsonValue
from rapidfuzz.distance import Levenshtein

from triune.core.sample import Sample
from triune.core.verdict import Outcome
from triune.verify.extract import read_answer
from triune.verify.reading import FoldParams, folded_references
from triune.verify.verifier import Case, Context, Score, Verifier, register


class TextParams(FoldParams):
    """Of verifiers that compare texts. Case is folded as Unicode has it: ß is ss."""

    full_stop: bool = Field(False, description="a final full stop counts")

    def fold(self, text: str, *, trim: bool = True) -> str:
        text = super().fold(text.casefold() if self.lower else text, trim=trim)
        return text if self.full_stop or not text.endswith(".") else text[:-1].rstrip()


class LooseParams(TextParams):
    """Of verifiers that measure how near two texts are."""

    lower: bool = Field(True, description="letter case does not matter")


def edit_similarity(a: str, b: str) -> float:
    """1 - Levenshtein distance / length of the longer text, in [0, 1]."""
    return 1 - float(Levenshtein.normalized_distance(a, b))


_TWO = "<think>a</think><answer>Stop</answer> <answer>Go</answer>"


@register("text_exact")
class TextExact(Verifier[TextParams, tuple[str, ...]]):
    """A-STR: equality after NFKC, trimming, collapsing spaces and dropping a final full stop.

    Class names (CLS-RL) want `lower`; so does VLM-R1's `all_match`.
    """

    version = "2"
    Params = TextParams
    cases = (
        Case("<answer> Stop  sign. </answer>", 1.0, truth="Stop sign", correct=True),
        Case("<answer>stop sign</answer>", 0.0, truth="Stop sign", correct=False),
        Case("<answer>stop sign</answer>", 1.0, truth=["halt", "Stop sign"], params={"lower": True}),
        Case("<answer>STRASSE</answer>", 1.0, truth="Straße", params={"lower": True}),
        Case("<answer>Stop sign.</answer>", 0.0, truth="Stop sign", params={"full_stop": True}),
        Case("<answer>ﬁsh, x²</answer>", 1.0, truth="fish, x2"),
        Case("<answer>ﬁsh, x²</answer>", 0.0, truth="fish, x2", params={"unicode": "nfc"}),
        Case("<answer>cafe\u0301</answer>", 1.0, truth="café", params={"unicode": "nfc"}),
        Case("<answer>cafe\u0301</answer>", 0.0, truth="café", params={"unicode": "none"}),
        Case("<answer>cafe</answer>", 1.0, truth="café", params={"accents": False}),
        Case(
            "<answer>tabby_cat</answer>",
            1.0,
            truth="Tabby cat",
            params={"lower": True, "punctuation": False, "spaces": "drop"},
        ),
        Case("<think>a</think> Stop<|im_end|>", 1.0, truth="Stop", params={"answer": "text"}),
        Case("Stop", 0.0, truth="Stop", status="unparsed", correct=False),
        Case(r"\boxed{\text{Stop}}", 1.0, truth="Stop", params={"answer": "boxed"}),
        Case(_TWO, 0.0, truth="Go", status="unparsed"),
        Case(_TWO, 1.0, truth="Stop", params={"several": "first"}),
        Case(_TWO, 1.0, truth="Go", params={"several": "last"}),
        Case(_TWO, 1.0, truth="Stop, Go", params={"several": "join"}),
        Case(_TWO, 0.0, truth="Go", params={"several": "reject"}, status="unparsed"),
        Case("<think>It says <answer>Go</answer></think><answer>Stop</answer>", 1.0, truth="Stop"),
        Case("<think>It says <answer>Go</answer></think>", 0.0, truth="Go", status="unparsed"),
        Case("<think>It says <answer>Go</answer>", 0.0, truth="Go", status="unparsed"),
        Case("Stop</answer>", 1.0, truth="Stop", params={"prefill": "<think></think><answer>"}),
        Case("[T]a[/T]Stop", 1.0, truth="Stop", params={"answer": "text", "thoughts": ["[T]", "[/T]"]}),
        Case("<sign>Stop</sign>", 1.0, truth="Stop", params={"tag": "sign"}),
        Case("<answer>Stop</answer>", None, truth=" ", status="invalid_reference"),
    )

    def prepare(self, truth: JsonValue, sample: Sample, params: TextParams) -> tuple[str, ...]:
        return folded_references(truth, params)

    def score(
        self, outcome: Outcome, reference: tuple[str, ...], params: TextParams, context: Context
    ) -> Score:
        answer = params.read(read_answer(outcome.text, params))
        return Score(float(answer in reference), detail=f"{answer} for {' or '.join(reference)}")


@register("edit_similarity")
class EditSimilarity(Verifier[LooseParams, tuple[str, ...]]):
    """A-LEV: 1 - edit distance / length of the longer text, the best over the references. Correct: 0.9 or more."""

    version = "2"
    Params = LooseParams
    threshold = 0.9
    cases = (
        Case("<answer>Hello</answer>", 1.0, truth="hello", correct=True),
        Case("<answer>hellp</answer>", 0.8, truth="hello", correct=False),
        Case("<answer>Hello</answer>", 0.8, truth="hello", params={"lower": False}),
        Case("<answer>xyz</answer>", 0.0, truth="abc"),
        Case("hello", 0.0, truth="hello", status="unparsed"),
        Case("<answer>a</answer>", None, truth=3, status="invalid_reference"),
    )

    def prepare(self, truth: JsonValue, sample: Sample, params: LooseParams) -> tuple[str, ...]:
        return folded_references(truth, params)

    def score(
        self, outcome: Outcome, reference: tuple[str, ...], params: LooseParams, context: Context
    ) -> Score:
        answer = params.read(read_answer(outcome.text, params))
        nearest = max(reference, key=lambda text: edit_similarity(answer, text))
        return Score(edit_similarity(answer, nearest), detail=f"{answer} for {nearest}")
