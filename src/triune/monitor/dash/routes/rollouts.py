"""Rollouts: found by filters, one by one, by group, through the steps, and before against after."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query

from triune.core.errors import StorageError
from triune.core.verdict import Ending, Status
from triune.monitor import index
from triune.monitor.dash.reading import Json, OneStore
from triune.monitor.dash.rollout import brief, described, head, one_of, said, sibling
from triune.monitor.report.cases import KINDS, kind_of
from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store

router = APIRouter()

PAGE = 50
GROUP = 64
PAIRS = 12
_SNIPPET = 160
Texts = Annotated[list[str] | None, Query()]
Bound = float | None


@router.get("/api/rollouts")
def rollouts(
    store: OneStore,
    phase: Annotated[str, Query(description="'' for all")] = "train",
    step: Annotated[str, Query(description="one, or first-last; either may be left out")] = "",
    source: Texts = None,
    task: Texts = None,
    sample: Texts = None,
    group: Texts = None,
    status: Texts = None,
    ending: Texts = None,
    correct: Literal["", "yes", "no"] = "",
    reward_min: Bound = None,
    reward_max: Bound = None,
    component: str = "",
    value_min: Bound = None,
    value_max: Bound = None,
    length_min: Bound = None,
    length_max: Bound = None,
    text: str = "",
    order: index.Order = "-step",
    limit: Annotated[int, Query(ge=1, le=500)] = PAGE,
    after: str | None = None,
) -> Json:
    """A page of rollouts; `next` continues it. A search in texts that has to open many files hands back what it has."""
    found = store.find(
        index.Query(
            phase=phase or None,
            steps=step_range(step),
            sources=_given(source), tasks=_given(task), samples=_given(sample), groups=_given(group),
            statuses=_given(status), endings=_given(ending),
            correct={"yes": True, "no": False}.get(correct),
            reward=(reward_min, reward_max),
            components={component: (value_min, value_max)} if component else {},
            length=(length_min, length_max),
            text=text, order=order, limit=limit, after=after,
        )
    )  # fmt: skip
    problems = list(found.problems)
    texts = _texts(store, found.rows, problems)
    return {
        "rows": [_row(row) | texts.get((row.phase, row.step, row.row), {}) for row in found.rows],
        "next": found.next, "total": found.total, "scanned": found.scanned, "problems": problems,
    }  # fmt: skip


@router.get("/api/rollouts/choices")
def choices(store: OneStore) -> Json:
    """What the filters can be set to, and the steps of each phase whose rollouts were kept."""
    phases = store.phases()
    components = {
        name
        for phase in phases
        for (name,) in store.latest("component", phase=phase, by=("component",))
        if name
    }
    sources = {
        name for phase in phases for (name,) in store.latest("status", phase=phase, by=("source",)) if name
    }
    return {
        "phases": {phase: kept for phase in phases if (kept := store.rollout_steps(phase))},
        "sources": sorted(sources), "components": sorted(components),
        "statuses": list(get_args(Status)), "endings": list(get_args(Ending)), "orders": list(get_args(index.Order)),
    }  # fmt: skip


@router.get("/api/rollout")
def rollout(store: OneStore, phase: str, step: int, row: int, whole: bool = False) -> Json:
    """One rollout with everything that was kept of it, and its siblings."""
    held = store.rollouts(phase, step)
    one = one_of(held, phase, step, row)
    return described(store, one, row, whole=whole) | {
        "siblings": [brief(other, n) for n, other in _siblings(held, one)]
    }


@router.get("/api/group")
def group(store: OneStore, phase: str, step: int, row: int) -> Json:
    """The rollouts that one baseline was formed over, best first; those without a reward last."""
    held = store.rollouts(phase, step)
    one = one_of(held, phase, step, row)
    found = _siblings(held, one)
    found.sort(key=lambda pair: (pair[1].reward is None, -(pair[1].reward or 0.0), pair[1].rank))
    return {
        "group": one.group, "source": one.source, "sample": one.sample, "total": len(found),
        "rollouts": [sibling(store, other, n) for n, other in found[:GROUP]],
    }  # fmt: skip


@router.get("/api/sample")
def sample(store: OneStore, sample: str, source: str) -> Json:
    """Every kept rollout of one sample, over steps and phases."""
    query = partial(index.Query, phase=None, samples=(sample,), sources=(source,), order="step", limit=500)
    rows: list[index.Row] = []
    page = store.find(query())
    rows += page.rows
    while page.next is not None and len(rows) < 5_000:
        page = store.find(query(after=page.next))
        rows += page.rows
    problems = list(page.problems)
    first = next((row for row in rows if row.component == "policy"), rows[0] if rows else None)
    shown = None
    if first is not None:
        try:
            held = store.rollouts(first.phase, first.step)
            shown = sibling(store, one_of(held, first.phase, first.step, first.row), first.row)
        except StorageError as error:
            problems.append(str(error))
    return {
        "sample": sample, "source": source, "total": page.total, "rows": [_row(row) for row in rows],
        "first": shown, "problems": problems,
    }  # fmt: skip


@router.get("/api/pairs")
def pairs(
    store: OneStore,
    before: Annotated[str, Query(description="PHASE:STEP; default: the first evaluation")] = "",
    after: Annotated[str, Query(description="PHASE:STEP; default: the last evaluation")] = "",
    kind: str = "",
    source: str = "",
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Json:
    """The same samples in two evaluations, both answers. Of several rollouts of a sample the first counts."""
    known = evaluations(store)
    if len(known) < 2 and not (before and after):
        return {"evaluations": known, "before": "", "after": "", "counts": {}, "total": 0, "pairs": []}
    before, after = before or known[0], after or known[-1]
    first, last = (_by_sample(store.rollouts(*_evaluation(name))) for name in (before, after))
    both = [key for key in first if key in last]
    kinds = {key: kind_of(first[key][1], last[key][1]) for key in both}
    chosen = [key for key in both if kind in ("", kinds[key]) and source in ("", key[0])]
    order = {name: n for n, name in enumerate(KINDS)}
    chosen.sort(key=lambda key: (order.get(kinds[key], len(order)), key))
    return {
        "evaluations": known, "before": before, "after": after,
        "counts": Counter(kinds[key] for key in both if source in ("", key[0])),
        "unpaired": len(first) + len(last) - 2 * len(both), "sources": sorted({key[0] for key in both}),
        "total": len(chosen), "offset": offset,
        "pairs": [
            {"kind": kinds[key], "before": _shown(store, first[key]), "after": _shown(store, last[key])}
            for key in chosen[offset : offset + PAIRS]
        ],
    }  # fmt: skip


def evaluations(store: Store) -> list[str]:
    """`PHASE:STEP` of every evaluation of the policy as it is whose rollouts were kept, in order."""
    order = ("eval-before", "eval", "eval-after")
    found = [(step, n, phase) for n, phase in enumerate(order) for step in store.rollout_steps(phase)]
    return [f"{phase}:{step}" for step, _, phase in sorted(found)]


def step_range(text: str) -> index.Range:
    """`12`, `10-20`, `10-`, `-20` or nothing; raises ValueError for anything else."""
    low, dash, high = text.replace(" ", "").replace("–", "-").partition("-")
    if not all(part == "" or (part.isdecimal() and len(part) < 19) for part in (low, high)):
        raise ValueError(f"not a step or a range of steps: {text!r}; write 12, 10-20, 10- or -20")
    first, last = (int(part) if part else None for part in (low, high))
    return (first, last) if dash else (first, first)


def _given(values: list[str] | None) -> tuple[str, ...]:
    return tuple(value for value in values or () if value)


def _row(row: index.Row) -> Json:
    return {
        "step": row.step, "phase": row.phase, "row": row.row, "id": row.id, "sample": row.sample, "source": row.source,
        "task": row.task, "group": row.group, "rank": row.rank, "component": row.component, "reward": said(row.reward),
        "accuracy": said(row.accuracy), "correct": row.correct, "status": row.status, "ending": row.ending,
        "length": row.length, "advantage": said(row.advantage),
        "components": {name: said(value) for name, value in row.components.items()},
    }  # fmt: skip


def _texts(store: Store, rows: Sequence[index.Row], problems: list[str]) -> dict[tuple[str, int, int], Json]:
    """How each answer begins, its first picture, and the values in full: the index has no NaN. A file that cannot be read
    becomes a problem."""
    wanted = defaultdict[tuple[str, int], list[int]](list)
    for row in rows:
        wanted[row.phase, row.step].append(row.row)
    found: dict[tuple[str, int, int], Json] = {}
    for (phase, step), numbers in wanted.items():
        try:
            held = store.rollouts(phase, step)
            for n in numbers:
                one = one_of(held, phase, step, n)
                picture = one.media[0] if one.media and store.media(one.media[0]) else None
                found[phase, step, n] = {
                    "answer": head(one.response, False, _SNIPPET), "picture": picture, "in_loss": one.in_loss,
                    "reason": one.reason, "reward": said(one.reward), "accuracy": said(one.accuracy),
                    "components": {part.name: said(part.value) for part in one.components},
                }  # fmt: skip
        except StorageError as error:
            problems.append(str(error))
    return found


def _siblings(held: Sequence[Rollout], one: Rollout) -> list[tuple[int, Rollout]]:
    return [
        (n, other) for n, other in enumerate(held) if (other.source, other.group) == (one.source, one.group)
    ]


def _evaluation(name: str) -> tuple[str, int]:
    phase, _, step = name.rpartition(":")
    if not step.isdecimal():
        raise ValueError(f"not an evaluation: {name!r}; write PHASE:STEP")
    return phase, int(step)


def _by_sample(rollouts: Sequence[Rollout]) -> dict[tuple[str, str], tuple[int, Rollout]]:
    found: dict[tuple[str, str], tuple[int, Rollout]] = {}
    for n, one in enumerate(rollouts):
        found.setdefault((one.source, one.sample), (n, one))
    return found


def _shown(store: Store, pair: tuple[int, Rollout]) -> Json:
    return sibling(store, pair[1], pair[0])
