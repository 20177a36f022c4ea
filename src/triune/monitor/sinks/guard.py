"""A sink behind a guard: what goes wrong in it is counted and said, and neither an error nor a wait reaches the run."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from triune.monitor.alarms import Alarm
from triune.monitor.metric import Metric, Scored, scalar
from triune.monitor.rollouts import Advantage
from triune.monitor.sinks import (
    SINKS,
    Alarmed,
    Options,
    Picking,
    Repeating,
    Rewindable,
    RolloutSink,
    Run,
    Sink,
    Speaking,
)
from triune.monitor.store import Event

T = TypeVar("T")

QUEUED = 32
"""Calls that wait for a sink with a thread of its own; what comes beyond is dropped, and counted."""
PATIENCE = 30.0
"""Seconds that a sink may take to finish when the run ends."""


class Guard:
    """Calls a sink so that the caller cannot fail or wait.

    A sink that is not `local` has a thread of its own: a daemon, so that the process ends whatever its sinks wait for.
    """

    def __init__(self, name: str, sink: Sink, *, patience: float = PATIENCE) -> None:
        self.name = name
        self._sink, self._patience = sink, patience
        self._lock = threading.Lock()
        self._failed = self._dropped = self._all = 0
        self._said: set[str] = set()
        self._news: list[str] = []
        self._closed = False
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUED)
        self._thread: threading.Thread | None = None
        if not getattr(sink, "local", False):
            self._thread = threading.Thread(target=self._work, name=f"triune-sink-{name}", daemon=True)
            self._thread.start()

    # -- what a sink can do ----------------------------------------------------------------------------------------

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self._call(lambda: self._sink.log(step, phase, metrics), f"step {step} of {phase}")

    def log_rollouts(
        self,
        step: int,
        phase: str,
        metrics: Sequence[Metric],
        kept: Sequence[Scored],
        advantages: Sequence[Advantage | None],
        events: Sequence[Event],
    ) -> None:
        sink = self._sink
        if not isinstance(sink, RolloutSink):
            self.log(step, phase, metrics)
            return
        if isinstance(sink, Picking):
            nothing: Sequence[int] = ()
            chosen = self._asked(lambda: sink.pick(phase, kept), nothing, f"step {step} of {phase}")
            if not chosen:
                self.log(step, phase, metrics)
                return
            kept, advantages = [kept[i] for i in chosen], [advantages[i] for i in chosen]
        self._call(
            lambda: sink.log_rollouts(step, phase, metrics, kept, advantages, events),
            f"step {step} of {phase}",
        )

    def rewind(self, step: int) -> None:
        sink = self._sink
        if isinstance(sink, Rewindable):
            self._call(lambda: sink.rewind(step), f"going back to step {step}")

    def say(self, message: str) -> None:
        sink = self._sink
        if isinstance(sink, Speaking):
            self._call(lambda: sink.say(message), "a message")

    def alarms(self, holding: Sequence[Alarm]) -> None:
        sink = self._sink
        if isinstance(sink, Alarmed):
            self._call(lambda: sink.alarms(holding), "alarms")

    def close(self) -> None:
        """Waits for a thread of its own as long as `patience`; what it has not done then is lost, and said."""
        if self._closed:
            return
        self._closed = True
        if self._thread is None:
            self._try(self._sink.close, "closing")
        else:
            self._finish(self._thread)
        if self._all > 1:
            with self._lock:
                self._news.append(f"sink {self.name}: {self._all} calls failed or were dropped in this run")

    def _finish(self, thread: threading.Thread) -> None:
        deadline = time.monotonic() + self._patience
        with contextlib.suppress(queue.Full):
            self._jobs.put(lambda: self._try(self._sink.close, "closing"), timeout=self._patience)
            self._jobs.put(None, timeout=max(0.0, deadline - time.monotonic()))
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            self._count(
                f"not done after {self._patience:g} s; {self._jobs.qsize()} calls are lost", "closing"
            )

    # -- what became of it -----------------------------------------------------------------------------------------

    def flush(self, timeout: float = PATIENCE) -> bool:
        """Waits until everything submitted is done; False if that took longer than `timeout` seconds."""
        if self._thread is None or not self._thread.is_alive():
            return True
        done = threading.Event()
        try:
            self._jobs.put(done.set, timeout=timeout)
        except queue.Full:
            return False
        return done.wait(timeout)

    def metrics(self) -> Iterator[Metric]:
        """`sinks/failed` and `sinks/dropped`: calls since this was asked last, and `sinks/repeated`: steps that are there twice.
        Nothing where there were none."""
        sink = self._sink
        repeated = self._asked(sink.repeated, 0, "counting") if isinstance(sink, Repeating) else 0
        with self._lock:
            failed, self._failed = self._failed, 0
            dropped, self._dropped = self._dropped, 0
            if repeated:
                self._tell("repeated", f"sink {self.name} cannot take steps back: some are there twice")
        if failed:
            yield scalar("sinks/failed", failed, sink=self.name)
        if dropped:
            yield scalar("sinks/dropped", dropped, sink=self.name)
        if repeated:
            yield scalar("sinks/repeated", repeated, sink=self.name)

    def news(self) -> list[str]:
        """What is to be said since this was asked last: each failure once in the words in which it first came."""
        with self._lock:
            news, self._news = self._news, []
        return news

    # -- inside ----------------------------------------------------------------------------------------------------

    def _call(self, work: Callable[[], None], what: str) -> None:
        if self._thread is None:
            self._try(work, what)
            return
        try:
            self._jobs.put_nowait(lambda: self._try(work, what))
        except queue.Full:
            with self._lock:
                self._dropped += 1
                self._all += 1
                self._tell("slow", f"sink {self.name} does not keep up: {what} is dropped, and more may be")

    def _try(self, work: Callable[[], None], what: str) -> None:
        self._asked(work, None, what)

    def _asked(self, question: Callable[[], T], otherwise: T, what: str) -> T:
        """What a sink answers, or `otherwise` where it fails."""
        try:
            return question()
        except (
            BaseException
        ) as error:  # whatever a tracker's client raises, be it SystemExit: no signal comes here
            self._count(f"{type(error).__name__}: {error}", what)
            return otherwise

    def _count(self, why: str, what: str) -> None:
        with self._lock:
            self._failed += 1
            self._all += 1
            self._tell(why, f"sink {self.name} failed at {what}: {why}")

    def _tell(self, why: str, message: str) -> None:
        if why not in self._said and len(self._said) < 8:
            self._said.add(why)
            self._news.append(message)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def guarded(sink: str | Options | Sink, run: Run) -> Guard | None:
    """A sink by name, by its options, or one that is already open, behind a guard; None for the run's own store, which the
    monitor has anyway. Raises RecipeError for an unknown name, and for what the reader of the recipe has to mend."""
    if isinstance(sink, str):
        sink = SINKS[sink]()
    if not isinstance(sink, Options):
        return Guard(type(sink).__name__.lower(), sink)
    name = next(name for name in SINKS if SINKS[name] is type(sink))
    return None if name == "store" else Guard(name, sink.open(run))
