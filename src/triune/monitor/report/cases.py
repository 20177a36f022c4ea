"""Samples to look at, before and after training, chosen by a fixed rule and not by hand."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from triune.core.sample import Check
from triune.monitor.boxes import Box, Canvas, Layout, Marks, Outline, answered_marks, true_marks
from triune.monitor.report.pictures import Picture, load
from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store

CASES_PER_TASK = 4
_MAX_MARKS = 100  # of a kind drawn per picture: a degenerate answer must not make the page unusable
KINDS = ("improved", "regressed", "wrong both times", "right both times")
_BETWEEN = {
    "improved": "only the second is right",
    "regressed": "only the first is right",
    "wrong both times": "both are wrong",
    "right both times": "both are right",
    "not judged": "not judged",
}
_IN_ORDER = (*KINDS, *_BETWEEN.values())


@dataclass(frozen=True, slots=True)
class Answer:
    """What the policy said about a case at one time, and what it marked there if the case is about places."""

    when: str
    rollout: Rollout
    marks: Marks


@dataclass(frozen=True, slots=True)
class Case:
    """One sample to look at. `marks` are the true ones, None if the truth is not about places."""

    kind: str
    source: str
    sample: str
    prompt: str
    truth: str
    pictures: Sequence[Picture]
    marks: Marks | None
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class TaskCases:
    """The chosen cases of a task, and how many samples there are of each kind."""

    task: str
    cases: Sequence[Case]
    counts: Mapping[str, int]


def all_marks(marks: Marks) -> list[Box | Outline]:
    """In the order in which they are drawn."""
    return [*marks.boxes, *marks.polygons, *marks.points]


def choose_cases(store: Store, before: Sequence[Rollout], after: Sequence[Rollout]) -> list[TaskCases]:
    """Cases chosen by a fixed rule: per task, turn by turn, the next sample of each kind, from a new source if possible."""
    if not after and not before:
        steps = store.rollout_steps()
        last = store.rollouts("train", steps[-1]) if steps else []
        after = [rollout for rollout in last if rollout.component == "policy"]
    first, second = _by_sample(before), _by_sample(after)
    keys = [key for key in (second or first) if not first or not second or key in first]
    by_task: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for key in keys:
        task = (second or first)[key].task
        by_task[task][kind_of(first.get(key), second.get(key))].append(key)
    found = []
    for task, kinds in sorted(by_task.items()):
        chosen = _choose(kinds)
        cases = [_case(store, kind, first.get(key), second.get(key)) for kind, key in chosen]
        found.append(TaskCases(task, cases, {kind: len(kinds[kind]) for kind in sorted(kinds, key=_order)}))
    return found


def choose_differing(
    store: Store, first: Sequence[Rollout], second: Sequence[Rollout], when: tuple[str, str]
) -> list[TaskCases]:
    """Samples that two runs answered otherwise, by the same rule; `store` holds the pictures, `when` names the runs."""
    one, other = _by_sample(first), _by_sample(second)
    by_task: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for key, rollout in other.items():
        if key in one and one[key].response != rollout.response:
            by_task[rollout.task][_BETWEEN[kind_of(one[key], rollout)]].append(key)
    return [
        TaskCases(
            task,
            [_case(store, kind, one[key], other[key], when) for kind, key in _choose(kinds)],
            {kind: len(kinds[kind]) for kind in sorted(kinds, key=_order)},
        )
        for task, kinds in sorted(by_task.items())
    ]


def _by_sample(rollouts: Sequence[Rollout]) -> dict[tuple[str, str], Rollout]:
    """The first rollout of each sample, by source and sample."""
    found: dict[tuple[str, str], Rollout] = {}
    for rollout in rollouts:
        found.setdefault((rollout.source, rollout.sample), rollout)
    return found


def kind_of(before: Rollout | None, after: Rollout | None) -> str:
    """One of KINDS, `right` or `wrong` where there is one answer, `not judged` where either could not be."""
    last = after or before
    if before is None or after is None:
        return "right" if last is not None and last.correct else "wrong"
    if before.correct is None or after.correct is None:
        return "not judged"
    if before.correct != after.correct:
        return "improved" if after.correct else "regressed"
    return "right both times" if after.correct else "wrong both times"


def _choose(kinds: Mapping[str, Sequence[tuple[str, str]]]) -> list[tuple[str, tuple[str, str]]]:
    waiting = {kind: list(keys) for kind, keys in sorted(kinds.items(), key=lambda item: _order(item[0]))}
    chosen: list[tuple[str, tuple[str, str]]] = []
    used: Counter[str] = Counter()
    while any(waiting.values()):
        for kind, keys in waiting.items():
            if keys and len(chosen) < CASES_PER_TASK:
                key = min(keys, key=lambda key: (used[key[0]], keys.index(key)))
                keys.remove(key)
                used[key[0]] += 1
                chosen.append((kind, key))
        if len(chosen) >= CASES_PER_TASK:
            break
    return sorted(chosen, key=lambda item: _order(item[0]))


def _order(kind: str) -> int:
    return _IN_ORDER.index(kind) if kind in _IN_ORDER else len(_IN_ORDER)


def _case(
    store: Store,
    kind: str,
    before: Rollout | None,
    after: Rollout | None,
    when: tuple[str, str] = ("before", "after"),
) -> Case:
    known = after or before
    assert known is not None
    pictures = [picture for sha in known.media if (picture := load(store.media(sha))) is not None]
    canvases, layout = _canvases(known, pictures), _layout(store, known)
    true = true_marks(known.truth, known.truth_frame, canvases, layout) if canvases else None
    answers = []
    for name, rollout in zip(when, (before, after), strict=True):
        if rollout is not None:
            drawn = Marks()
            if true is not None:
                as_seen = _canvases(rollout, pictures)
                drawn = answered_marks(rollout.response, rollout.answer_frame, as_seen, layout, true)
            answers.append(Answer(name if before and after else "", rollout, _bounded(drawn)))
    truth = known.truth if isinstance(known.truth, str) else json.dumps(known.truth, ensure_ascii=False)
    marks = None if true is None else _bounded(true)
    return Case(kind, known.source, known.sample, known.prompt, truth, pictures, marks, answers)


def _canvases(rollout: Rollout, pictures: Sequence[Picture]) -> list[Canvas]:
    """The stored pictures, with the sizes in which this rollout saw them."""
    return [
        Canvas(picture.size, rollout.seen[n].processed if n < len(rollout.seen) else None)
        for n, picture in enumerate(pictures)
    ]


def _layout(store: Store, rollout: Rollout) -> Layout:
    """How coordinates are written, as the sample's checks say; without the sample, as far as their names do."""
    if rollout.sample_sha and (sample := store.sample(rollout.sample_sha)) is not None:
        return Layout.of(sample.checks)
    return Layout.of(Check(verifier=part.name) for part in rollout.components)


def _bounded(marks: Marks) -> Marks:
    """As many of each kind as a page can show."""
    return replace(
        marks,
        boxes=marks.boxes[:_MAX_MARKS],
        points=marks.points[:_MAX_MARKS],
        polygons=marks.polygons[:_MAX_MARKS],
    )
