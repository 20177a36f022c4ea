"""Time, memory and signals of the process that runs the loop."""

from __future__ import annotations

import resource
import signal
import time
from types import FrameType
from typing import Any

from triune.monitor.metric import Metric, scalar


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the step in flight was finished and a checkpoint written."""


class Interrupt:
    """Turns the first Ctrl-C (or SIGTERM) into a request that the loop answers between steps; a second one kills."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        except ValueError:
            pass  # not the main thread: whoever runs the loop there handles signals
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Clock:
    """Seconds and tokens per phase of one step, and the memory's high-water mark (Unix: ru_maxrss in KiB)."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._phases: list[tuple[str, float, int]] = []

    def tick(self, phase: str, tokens: int = 0) -> None:
        """Ends a phase that began with the last tick."""
        now = time.monotonic()
        self._phases.append((phase, now - self._last, tokens))
        self._last = now

    def metrics(self) -> list[Metric]:
        out = [scalar("seconds", seconds, phase=phase) for phase, seconds, _ in self._phases]
        out += [
            scalar("tokens_per_second", n / s, phase=phase) for phase, s, n in self._phases if n and s > 0
        ]
        out.append(scalar("seconds", sum(s for _, s, _ in self._phases), phase="step"))
        out.append(scalar("peak_rss_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        return out
