"""The monitor: one call per step turns judged rollouts and learner scalars into metrics and hands them to the sinks.

The sinks, the run's own store first, are called by a thread of their own, behind a bounded buffer (`writer.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from triune.core.media import Media
from triune.core.monitorspec import REFLECTION_WORDS
from triune.monitor.alarms import rules
from triune.monitor.alarms.watch import Watch
from triune.monitor.keep import Keep, footprint, kept_metrics
from triune.monitor.metric import Metric, Scored, merge, scalar
from triune.monitor.rollouts import Advantage
from triune.monitor.shown import Spell, Vocabulary, met
from triune.monitor.sinks import Options, Run, Sink
from triune.monitor.sinks.guard import Guard, guarded
from triune.monitor.sinks.store import StoreSink
from triune.monitor.source import rollout_metrics
from triune.monitor.store import Event, Store
from triune.monitor.writer import Writer

BUFFER_STEPS = 64
"""Steps and messages that may wait for the disk. Their metrics are never lost: beyond it the run waits."""


class Monitor:
    """Opens the sinks of a run; the run's own store is always the first, named or not.

    `sinks`: names from the registry, options of sinks, or sinks that are already open (the monitor closes them too). One
    that fails is said and counted (`sinks/failed`), and stops nothing; the run's own store is none of them. `words`: the
    words whose use is counted. `rollouts_every`: steps between training steps whose rollouts are kept, 0 for none; `keep`:
    of those, the share of groups, by source or task. Rollouts of every other phase are always kept. `buffer_mb`: megabytes
    of rollouts that may wait to be written; those of a training step beyond it are not kept, and counted. `recipe`: plain
    data for sinks that keep it. `alarms`: options of rules by name, None to leave one out; `stop_on`: rules whose alarms
    end the run (`stopping`). Raises StorageError if the run cannot be written and RecipeError for an unknown sink, or
    one whose extra is missing.

    Writing goes on behind the caller's back: an error of it is raised by the next call, whichever that is, and by `close`.
    """

    def __init__(
        self,
        run_dir: Path | str,
        sinks: Sequence[str | Options | Sink] = ("store",),
        words: Sequence[str] = REFLECTION_WORDS,
        rollouts_every: int = 1,
        total_steps: int | None = None,
        recipe: Mapping[str, Any] | None = None,
        *,
        keep: Mapping[str, float] | None = None,
        buffer_mb: float = 256,
        alarms: Mapping[str, Mapping[str, JsonValue] | None] | None = None,
        stop_on: Sequence[str] = (),
    ) -> None:
        self.run_dir = Path(run_dir)
        self.spell: Spell | None = None
        """What gives the text of token ids, so that saved rollouts can be read token by token."""
        self._vocabulary = Vocabulary()
        self._words, self._keep = tuple(words), Keep(rollouts_every, dict(keep or {}))
        self._step, self._told = 0, set[str]()
        self._reader: Store | None = None
        self._closed = False
        run = Run(self.run_dir, total_steps, recipe or {})
        with ExitStack() as opened:
            self._own, self._sinks = StoreSink(run), list[Guard]()
            opened.callback(self._own.close)
            self._watch = Watch(self._own.store, rules(alarms), stop_on)
            for sink in sinks:
                if (guard := guarded(sink, run)) is not None:
                    self._sinks.append(guard)
                    opened.callback(self._close, guard)
            self._writer = Writer(int(buffer_mb * 2**20), BUFFER_STEPS)
            self._open = opened.pop_all()

    def log_step(
        self,
        step: int,
        phase: str,
        scored: Sequence[Scored] = (),
        scalars: Sequence[Metric] = (),
        advantages: Sequence[Advantage | None] | None = None,
        shown: Sequence[Media] = (),
    ) -> list[Metric]:
        """Logs a step of a phase in place of what was there, and returns its metrics (but for those of failing sinks).

        `scalars` are metrics from elsewhere (see `scalar`); equal names and labels are merged. `advantages`, one per
        rollout, are kept with the rollouts; ValueError if their number differs. `shown` are the pictures that tools and
        environments showed in these rollouts.
        """
        advantages = [None] * len(scored) if advantages is None else advantages
        if len(advantages) != len(scored):
            raise ValueError(f"{len(advantages)} advantages for {len(scored)} rollouts")
        reasons = self._keep.reasons(step, phase, scored)
        wanted = [number for number, reason in enumerate(reasons) if not reason]
        kept = [scored[number] for number in wanted]
        pictures = met(kept, shown)
        size = footprint(kept, pictures)
        # An evaluation is what a run is judged by: it waits for room, where a training step goes without its rollouts.
        waited = self._writer.wait(0 if phase == "train" else size)
        if kept and not self._writer.fits(size):
            for number in wanted:
                reasons[number] = "buffer"
            wanted, kept, pictures, size = [], [], [], 0
            self._say_once(
                "buffer", f"step {step}: rollouts come faster than they can be written, and are not kept"
            )
        if waited:
            scalars = [*scalars, scalar("seconds", waited, phase="monitor")]
            self._say_once(
                "buffer-wait", f"step {step}: the run had to wait {waited:.1f} s for its files to be written"
            )
        metrics = merge([*rollout_metrics(scored, self._words), *kept_metrics(scored, reasons), *scalars])
        given = [advantages[number] for number in wanted]
        drops = [_drop(step, phase, one) for one in scored if one.reason]
        spelt = self._vocabulary.new(kept, self.spell)

        def write() -> None:
            self._own.take(pictures, spelt)
            self._write(step, phase, metrics, kept, given, drops)

        self._writer.submit(write, size)
        return metrics

    def say(self, message: str, *, kind: str = "note", step: int = 0, **detail: JsonValue) -> None:
        """Tells the reader of the run something that happened once (a probe's result, a resume, an alert): shown by the
        sinks that can, and kept as an event of this kind."""
        event = Event(kind, {"message": message, **detail}, step, time=time.time())
        self._writer.wait()
        self._writer.submit(lambda: self._tell(event, message))

    def rewind(self, step: int) -> None:
        """Forgets what came after a step, in every sink that can; a resumed run calls it before its first step."""

        def back() -> None:
            for sink in self._all():
                sink.rewind(step)
            self._watch.rewound()
            for guard in self._sinks:
                guard.alarms(self._watch.holding)

        self._writer.wait()
        self._writer.submit(back)
        self.flush()

    @property
    def store(self) -> Store:
        """The run's store, to be read, with everything in it that was logged up to now."""
        self.flush()
        if self._reader is None:
            self._reader = Store(self.run_dir, readonly=True)
        return self._reader

    @property
    def stopping(self) -> str:
        """The alarm because of which the run shall end after the step at hand, '' if there is none."""
        return self._watch.stopping

    def look(self) -> None:
        """Looks for alarms at the last step that was logged, unless that was done, and waits for what is found."""
        self._writer.submit(lambda: self._alarmed(self._watch.finish()))
        self.flush()

    def flush(self) -> None:
        """Waits until everything that was logged is written, and would survive the end of this process."""
        self._writer.flush()

    @property
    def cpu_seconds(self) -> float:
        """CPU time that writing has taken so far, in its own thread."""
        return self._writer.cpu_seconds

    def close(self) -> None:
        """Writes what is left, closes every sink, waiting for each a bounded time, and then the store; then raises the error
        that writing ended with, if it did. Does nothing in a process that was forked off."""
        if self._writer.elsewhere or self._closed:
            return
        self._closed = True
        with self._open:
            if self._reader is not None:
                self._reader.close()
            try:
                self.look()
            finally:
                self._writer.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _say_once(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.say(f"{message}; said once, then counted", kind=kind)

    def _all(self) -> Iterator[StoreSink | Guard]:
        yield self._own
        yield from self._sinks

    # In the writer's thread, and when it has ended

    def _write(
        self,
        step: int,
        phase: str,
        metrics: Sequence[Metric],
        kept: Sequence[Scored],
        advantages: Sequence[Advantage | None],
        events: Sequence[Event],
    ) -> None:
        metrics = [*metrics, *(metric for sink in self._sinks for metric in sink.metrics())]
        for sink in self._all():
            sink.log_rollouts(step, phase, metrics, kept, advantages, events)
        self._step = step
        self._alarmed(self._watch.logged(step, phase))
        self._report()

    def _alarmed(self, messages: Sequence[str]) -> None:
        """Shows what a look for alarms found; the events are in the store."""
        for sink in self._sinks if messages else ():
            sink.alarms(self._watch.holding)
            for message in messages:
                sink.say(message)

    def _close(self, sink: Guard) -> None:
        sink.close()
        self._report()

    def _report(self) -> None:
        """Says what went wrong in sinks since this was called last."""
        for sink in self._sinks:
            for message in sink.news():
                self._tell(Event("sink", {"message": message, "sink": sink.name}, self._step), message)

    def _tell(self, event: Event, message: str) -> None:
        self._own.store.log_event(event)
        for sink in self._sinks:
            sink.say(message)


def _drop(step: int, phase: str, one: Scored) -> Event:
    detail: dict[str, JsonValue] = {
        "sample": one.sample.id,
        "rollout": one.trajectory.id,
        "reason": one.reason,
        "status": one.verdict.status,
        "ending": one.outcome.ending,
        "in_loss": one.in_loss,
        "in_baseline": one.in_baseline,
    }
    return Event("drop", detail, step, phase, one.sample.source, one.sample.task)
