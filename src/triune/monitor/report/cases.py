"""Samples to look at, before and after training, chosen by a fixed rule and not by hand."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from triune.monitor.boxes import Box, Canvas, answered_marks, true_marks
from triune.monitor.report.pictures import Picture, load
from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store

CASES_PER_TASK = 4
_MAX_BOXES = 100  # drawn per picture: a degenerate answer must not make the page unusable
KINDS = ("improved", "regressed", "wrong both times", "right both times")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the policy said about a case at one time, and the boxes it drew there if the case is about boxes."""

    when: str
    rollout: Rollout
    boxes: Sequence[Box] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One sample to look at. `boxes` are the true ones, None if the truth is not boxes."""

    kind: str
    source: str
    sample: str
    prompt: str
    truth: str
    pictures: Sequence[Picture]
    boxes: Sequence[Box] | None
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class TaskCases:
    """The chosen cases of a task, and how many samples there are of each kind."""

    task: str
    cases: Sequence[Case]
    counts: Mapping[str, int]


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
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def _case(store: Store, kind: str, before: Rollout | None, after: Rollout | None) -> Case:
    known = after or before
    assert known is not None
    pictures = [picture for sha in known.media if (picture := load(store.media(sha))) is not None]
    canvases = [
        Canvas(picture.size, known.seen[n].processed if n < len(known.seen) else None)
        for n, picture in enumerate(pictures)
    ]
    true = true_marks(known.truth, known.truth_frame, canvases) if canvases else None
    boxes = None if true is None else list(true.boxes[:_MAX_BOXES])
    answers = []
    for when, rollout in (("before", before), ("after", after)):
        if rollout is not None:
            drawn = answered_marks(rollout.response, rollout.answer_frame, canvases).boxes if true else ()
            answers.append(Answer(when if before and after else "", rollout, drawn[:_MAX_BOXES]))
    truth = known.truth if isinstance(known.truth, str) else json.dumps(known.truth, ensure_ascii=False)
    return Case(kind, known.source, known.sample, known.prompt, truth, pictures, boxes, answers)
