"""What the run is fed with: counts and pass rates per source, what was left out and why, and the pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query

from triune.monitor.dash.reading import Json, OneRun, OneStore, Remembered
from triune.monitor.index import PassRates
from triune.monitor.store import Store

router = APIRouter()

BINS = 10
"""Between the two that matter most: prompts that are never solved, and those that always are."""
LEFT_OUT = (
    ("dropped/reason", "reason", "rollouts left out of the loss or the baseline"),
    ("dynamic_sampling/dropped", "reason", "groups without a signal"),
    ("difficulty/skipped", "reason", "prompts passed over by their difficulty"),
    ("replay/not_stored", "reason", "successes that cannot be replayed"),
    ("replay/evicted", "reason", "successes forgotten"),
    ("demonstrations/missing", "component", "samples without a demonstration"),
    ("rollouts/unkept", "reason", "rollouts that were trained on and not kept on disk"),
)
"""Metrics that count what does not reach the loss or the disk, the label that says why, and what they count."""


@router.get("/api/data")
def data(run: OneRun, store: OneStore, memo: Remembered) -> Json:
    """Per source: rollouts, groups, samples seen, the histogram of pass rates; and everything that was left out."""
    return memo.get(("data", run.path), run.stamp, lambda: _read(store))


def _read(store: Store) -> Json:
    rollouts = _totals(store, "dropped/loss", counted=True)
    rates = store.pass_rates()
    whole = sum(rollouts.values())
    sources = []
    for (name, task), drawn in sorted(rollouts.items(), key=lambda item: (item[0][1], item[0][0])):
        found = rates.get(name, PassRates(0, {}))
        passed = [(right / judged, count) for (right, judged), count in found.groups.items()]
        groups = sum(count for _, count in passed)
        sources.append(
            {
                "name": name,
                "task": task,
                "rollouts": drawn,
                "share": drawn / whole if whole else None,
                "groups": groups,
                "samples": found.samples,
                "mean": sum(rate * count for rate, count in passed) / groups if groups else None,
                "bins": _histogram(passed),
            }
        )
    return {"sources": sources, "left_out": _left_out(store)}


@router.get("/api/pictures")
def pictures(
    store: OneStore,
    source: str = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 48,
    before: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
) -> Json:
    """A contact sheet: the samples of a source, each once, the newest first, with their pictures and how they went. `next` is
    `before` of the page that follows."""
    found = store.seen(source, limit + 1, before)
    shown = []
    for one in found[:limit]:
        sample = store.sample(one.sample_sha)
        shown.append(
            {
                "key": one.number,
                "sample": one.sample,
                "source": one.source,
                "step": one.step,
                "right": one.right,
                "n": one.rollouts,
                "media": [m.sha256 for m in sample.media if m.kind == "image"] if sample else [],
            }
        )
    return {"samples": shown, "next": found[limit - 1].number if len(found) > limit else None}


def _totals(store: Store, name: str, *labels: str, counted: bool = False) -> dict[tuple[str, ...], float]:
    """Sum over the run by source, task and `labels`: of the values, or of how many there are."""
    found = store.series(name, by=("source", "task", *labels), points=1)
    return {
        key: sum(point.count * (1 if counted else point.mean) for point in points if point.count)
        for key, points in found.items()
    }


def _left_out(store: Store) -> list[Json]:
    rows = [
        {"what": what, "source": source, "reason": reason, "count": round(total)}
        for name, label, what in LEFT_OUT
        for (source, _, reason), total in _totals(store, name, label).items()
        if round(total)
    ]
    return sorted(rows + _skipped(store), key=lambda row: (row["what"], -row["count"]))


def _skipped(store: Store) -> list[Json]:
    """Rows that no sample could be made from, by reason, as the last start of the run found them; and samples that could
    not be run, with what was said of the last one."""
    rows: dict[tuple[str, str], int] = {}
    said: dict[str, str] = {}
    for event in store.events("skipped"):
        source, message = str(event.detail.get("source", "")), str(event.detail.get("message", ""))
        if "sample" in event.detail:
            said[source] = message.removeprefix("skipped: ")
            continue
        rows = {key: count for key, count in rows.items() if key[0] != source}
        rows |= {(source, name): n for name, n in event.detail.items() if isinstance(n, int)}
    found = [
        {"what": "rows that cannot be used", "source": source, "reason": reason, "count": count}
        for (source, reason), count in rows.items()
    ]
    found += [
        {"what": "samples that cannot be run", "source": source, "reason": said.get(source, ""),
         "count": round(point.max)}
        for (source,), point in store.latest("rows_skipped").items()  # counts all so far
        if point.max > 0
    ]  # fmt: skip
    return found


def _histogram(passed: Sequence[tuple[float, int]]) -> list[Json]:
    """Never, ten equal bins between, always. `passed`: (rate, groups)."""
    counts: dict[int, int] = defaultdict(int)
    for rate, groups in passed:
        counts[0 if rate <= 0 else BINS + 1 if rate >= 1 else 1 + min(int(rate * BINS), BINS - 1)] += groups
    labels = ["0", *(f"{n / BINS:g}–{(n + 1) / BINS:g}" for n in range(BINS)), "1"]
    return [{"label": label, "count": counts[n]} for n, label in enumerate(labels)]
