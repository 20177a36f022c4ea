"""What every registered verifier must satisfy; a new one is picked up from the registry without being listed here."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triune.core.schedule import Progress
from triune.core.verdict import SCORED
from triune.testing import verifiers as contract
from triune.testing.cases import judgeable, requests, texts
from triune.verify.extract import AnswerParams
from triune.verify.judge import Judge
from triune.verify.trial import answers, full_marks, reaches
from triune.verify.verifier import Verifier, verifiers

NAMES = list(verifiers)
CASES = [
    pytest.param(name, case, id=f"{name}-{n}")
    for name in NAMES
    for n, case in enumerate(verifiers[name].cases)
]
PROGRESS = Progress(step=1, total_steps=10)


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


@pytest.mark.parametrize(("name", "case"), CASES)
def test_case(judge, name, case):
    contract.check_case(verifiers[name], case, judge)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if issubclass(verifiers[name], Verifier)
        and not (verifiers[name].wants_media or verifiers[name].concurrency)
        and verifiers[name].certain
    ],
)
def test_a_right_answer_can_be_written(judge, name):
    """What the start of a run tries on its data: the truth, laid out, or the verifier's `example` earns full marks."""
    cls = verifiers[name]
    for case in cls.cases:
        if judgeable(case):
            ((sample, _),) = requests(name, cls, case)
            written = answers(sample)
            ((_, outcomes),) = requests(name, cls, replace(case, text=tuple(written)))
            if any(reaches(v, full_marks(sample)) for v in judge.judge(sample, outcomes, PROGRESS)):
                return
    pytest.fail("no case's truth earns full marks; write an `example`")


@pytest.mark.parametrize("name", NAMES)
def test_declaration(name):
    contract.check_declaration(verifiers[name])


@pytest.mark.parametrize(
    "name", [name for name in NAMES if verifiers[name].__module__.startswith("triune.verify.")]
)
def test_is_documented(name):
    page = Path(__file__).parents[2] / "docs" / "verifiers.md"
    overview = page.read_text().split("## The verifiers")[1].split("## ")[0]
    assert f"`{name}`" in overview


ANSWERED = [
    pytest.param(name, case, id=name)
    for name in NAMES
    if issubclass(verifiers[name].Params, AnswerParams)
    for case in [next((c for c in verifiers[name].cases if c.status == "ok" and c.value == 1.0), None)]
    if case
]


@pytest.mark.parametrize(("name", "case"), ANSWERED)
def test_every_answer_is_read_as_its_parameters_say(judge, name, case):
    """`several` and `prefill` mean the same in every verifier that reads an answer."""
    source = verifiers[name].Params(**case.params).answer
    junk = {"tag": "<answer>?!</answer>", "boxed": r"\boxed{?!}", "text": None}[source]
    given = {
        "prefill": (case.text[3:], {"prefill": case.text[:3]}),
        **({"several": (f"{case.text} {junk}", {"several": "first"})} if junk else {}),
    }
    for text, params in given.values():
        said = replace(case, params={**case.params, **params}, text=text)
        component = judge.judge_many(requests(name, verifiers[name], said), PROGRESS)[0][0].components[0]
        assert (component.status, component.value) == ("ok", pytest.approx(1.0)), (text, params)


FRAGMENTS = st.sampled_from(contract.FRAGMENTS)
NOISE = st.one_of(st.lists(FRAGMENTS, max_size=30).map("".join), st.text(max_size=60))
WRAPPED = st.builds(
    lambda body, wrap: wrap.format(body),
    NOISE,
    st.sampled_from(["{}", "<answer>{}</answer>", "\\boxed{{{}}}"]),
)


@pytest.mark.parametrize("name", [name for name in NAMES if not verifiers[name].slow])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(noise=st.lists(WRAPPED, min_size=10, max_size=10))
def test_any_text_is_scored(judge, name, noise):
    cls = verifiers[name]
    size = max(len(group) for group in texts(cls.cases[0]))
    contract.check_noise(cls, [text for text in noise for _ in range(size)], judge)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(noise=st.lists(WRAPPED, min_size=40, max_size=40))
def test_any_text_is_scored_by_slow_verifiers(judge, noise):
    """In batches, as in training. A text may cost its deadline, but nothing else may go wrong."""
    for name in (name for name in NAMES if verifiers[name].slow):
        cls, case = verifiers[name], verifiers[name].cases[0]
        fields = {} if isinstance(case.outcome, tuple) else case.outcome
        groups = requests(name, cls, replace(case, outcome=fields), [noise] * len(texts(case)))
        for verdict in chain(*judge.judge_many(groups, PROGRESS)):
            assert verdict.status in {*SCORED, "timeout"}, verdict.components[0].detail
