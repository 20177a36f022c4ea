"""Rollouts that nobody could judge, through no fault of the policy's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import Field

from triune.core.verdict import SCORED
from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Readings, Window


@ALARMS.register("failing_verifier")
class FailingVerifier(Rule):
    """Share of the last steps' rollouts whose status is neither `ok` nor `unparsed`.

    Such rollouts leave the loss and the baseline, so what is left is a biased draw. A run stops by itself at
    `judge.max_failure_rate` (0.05); this rule speaks at a fifth of that. One failure alone never raises it.
    """

    window: int = Field(20, ge=1, description="steps that are looked at")
    share: float = Field(0.01, gt=0, le=1, description="of the rollouts of these steps")
    over: float = Field(0.5, gt=0, le=1, description="times the bound that the share must fall to")
    rollouts: int = Field(3, ge=1, description="failures, at least")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        windows: dict[str, dict[str, Window]] = {}
        for (source, status), curve in readings.curves("status", by=("source", "status")).items():
            if window := curve.last(min(self.window, curve.length)):
                windows.setdefault(source, {})[status] = window
        for source, by_status in windows.items():
            failed = Counter({s: round(w.count * w.mean) for s, w in by_status.items() if s not in SCORED})
            total = max(window.count for window in by_status.values())
            share = failed.total() / total
            bound = self.bound(readings, source, "", self.share, self.share * self.over)
            if share < bound or failed.total() < self.rollouts:
                continue
            counts = ", ".join(f"{count} {status}" for status, count in failed.most_common() if count)
            window = next(iter(by_status.values()))
            yield Alarm(
                rule=self.name,
                source=source,
                component="",
                step=readings.step,
                since=next(
                    point.step
                    for points in zip(
                        *(w.points for s, w in by_status.items() if s not in SCORED), strict=True
                    )
                    for point in points
                    if point.mean > 0
                ),
                message=f"{failed.total()} of {total} rollouts since step {window.first} could not be judged: {counts}. "
                "They leave the loss; look at the verifier, its data or its service",
                value=share,
                bound=self.share,
                metric="status",
            )
