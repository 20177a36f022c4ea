"""Facts of a run, and sentences that its reader must not miss; no layout here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any

from triune.core.verdict import SCORED
from triune.monitor.alarms import read as read_alarms
from triune.monitor.report.results import number
from triune.monitor.runs import writer_of
from triune.monitor.store import Store


def facts(store: Store, summary: Mapping[str, Any]) -> dict[str, str]:
    """How much was done, in how much time, and how much of it was kept."""
    found = {}
    if steps := store.steps():
        found["steps"] = str(steps[-1])
    if writer_of(store.run_dir) is not None:
        found["state"] = "still being written"
    rollouts, tokens = 0, 0.0
    for point in chain.from_iterable(store.series("completions/length", by=()).values()):
        rollouts, tokens = rollouts + point.count, tokens + point.count * point.mean
    if rollouts:
        found |= {"rollouts": f"{rollouts:,}", "sampled tokens": f"{tokens:,.0f}"}
    if kept := sum(_total(store, "rollouts/kept", phase).total() for phase in store.phases()):
        found["rollouts kept"] = f"{kept:,}"
    for name, seconds in (summary.get("seconds") or {}).items():
        if (value := number(seconds)) is not None:
            found[f"{name} time"] = duration(value)
    if (memory := number(summary.get("peak_rss_mb"))) is not None:
        found["peak memory"] = f"{memory / 1024:.1f} GB"
    return found


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s or 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def problems(store: Store) -> list[str]:
    """What was not judged, not finite, left out, not kept or not sent: one sentence each. Alarms are told apart."""
    found = []
    for phase in store.phases():
        totals: Counter[str] = Counter()
        for (status,), points in store.series("status", phase=phase, by=("status",)).items():
            totals[status] += round(sum(point.count * point.mean for point in points))
        for status, count in sorted(totals.items()):
            if status not in SCORED and count:
                found.append(
                    f"{count} rollouts in {phase} could not be judged ({status}); they were not scored."
                )
        found += [
            f"{count:,} rollouts in {phase} left the loss or the baseline: {reason}."
            for reason, count in _counted(store, "dropped/reason", phase)
        ]
        found += [
            f"{count:,} rollouts in {phase} were not kept ({_UNKEPT.get(reason, reason)}); their numbers are in the curves."
            for reason, count in sorted(_total(store, "rollouts/unkept", phase, "reason").items())
        ]
    for name, steps in store.nonfinite().items():
        plural = "s" if len(steps) > 1 else ""
        found.append(f"{name} was not finite at {len(steps)} step{plural}, first at step {steps[0]}.")
    for (source,), point in sorted(store.latest("rows_skipped").items()):
        if point.max > 0:
            found.append(f"{point.max:,.0f} rows of {source} were skipped: they could not be read.")
    for name, what in (
        ("sinks/failed", "failed"),
        ("sinks/dropped", "were dropped, because it could not keep up"),
    ):
        totals = sum((_total(store, name, phase, "sink") for phase in store.phases()), Counter())
        found += [
            f"{count:,} calls of the sink {sink} {what}; the run's own files are whole."
            for sink, count in sorted(totals.items())
        ]
    return found


_UNKEPT = {
    "every": "monitor.rollouts_every",
    "declared": "monitor.keep",
    "buffer": "the writer's buffer was full",
}


def alarms(store: Store) -> list[tuple[str, str]]:
    """Each alarm as (state, sentence): `holds` first, then those that are `over`."""
    found = [
        (
            "holds" if alarm.over is None else "over",
            f"step {alarm.step}" + (f" to {alarm.over}" if alarm.over is not None else "") + f": {alarm}",
        )
        for alarm in read_alarms(store)
    ]
    return sorted(found, key=lambda one: one[0])


def _total(store: Store, name: str, phase: str, label: str = "") -> Counter[str]:
    """A metric of counts summed over the steps of a phase, by the values of a label; those that come to 0 are left out."""
    found: Counter[str] = Counter()
    for key, points in store.series(name, phase=phase, by=(label,) if label else ()).items():
        found["".join(key)] += round(sum(point.count * point.mean for point in points))
    return +found


def _counted(store: Store, name: str, phase: str) -> list[tuple[str, int]]:
    """How many values a metric of ones has, by its label `reason`."""
    series = store.series(name, phase=phase, by=("reason",))
    return sorted((reason, sum(point.count for point in points)) for (reason,), points in series.items())
