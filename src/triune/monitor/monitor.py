"""The monitor: one call per step turns judged rollouts and learner scalars into metrics and hands them to the sinks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from triune.core.monitorspec import REFLECTION_WORDS
from triune.monitor.metric import Metric, Scored, merge
from triune.monitor.sinks import Options, Run, Sink
from triune.monitor.sinks.guard import Guard, guarded
from triune.monitor.sinks.store import StoreSink
from triune.monitor.source import rollout_metrics
from triune.monitor.store import Event, Store


class Monitor:
    """Opens the sinks of a run; the run's own store is always the first, named or not.

    `sinks`: names from the registry, options of sinks, or sinks that are already open (the monitor closes them too). One
    that fails is said and counted (`sinks/failed`), and stops nothing; the run's own store is none of them. `words`: the
    words whose use is counted. `rollouts_every`: steps between training steps whose rollouts are kept, 0 for none; those
    of every other phase are always kept. `recipe`: plain data for sinks that keep it. Raises StorageError if the run
    cannot be written and RecipeError for an unknown sink, or one whose extra is missing.
    """

    def __init__(
        self,
        run_dir: Path | str,
        sinks: Sequence[str | Options | Sink] = ("store",),
        words: Sequence[str] = REFLECTION_WORDS,
        rollouts_every: int = 1,
        total_steps: int | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self._words, self._rollouts_every, self._step = tuple(words), rollouts_every, 0
        run = Run(Path(run_dir), total_steps, recipe or {})
        with ExitStack() as opened:
            own = StoreSink(run)
            self.store: Store = own.store
            self._own, self._sinks = own, list[Guard]()
            opened.callback(own.close)
            for sink in sinks:
                if (guard := guarded(sink, run)) is not None:
                    self._sinks.append(guard)
                    opened.callback(self._close, guard)
            self._open = opened.pop_all()

    def log_step(
        self,
        step: int,
        phase: str,
        scored: Sequence[Scored] = (),
        scalars: Sequence[Metric] = (),
        advantages: Sequence[float | None] | None = None,
    ) -> list[Metric]:
        """Logs a step of a phase in place of what was there, and returns its metrics.

        `scalars` are metrics from elsewhere (see `scalar`); equal names and labels are merged. `advantages`, one per
        rollout, are kept with the rollouts; ValueError if their number differs.
        """
        advantages = [None] * len(scored) if advantages is None else advantages
        if len(advantages) != len(scored):
            raise ValueError(f"{len(advantages)} advantages for {len(scored)} rollouts")
        failed = [metric for sink in self._sinks for metric in sink.metrics()]
        metrics = merge([*rollout_metrics(scored, self._words), *scalars, *failed])
        keep = phase != "train" or (self._rollouts_every > 0 and step % self._rollouts_every == 0)
        for sink in self._all():
            sink.log_rollouts(step, phase, metrics, scored, advantages, keep=keep)
        self._step = step
        self._tell()
        return metrics

    def say(self, message: str, *, kind: str = "note", step: int = 0, **detail: JsonValue) -> None:
        """Tells the reader of the run something that happened once (a probe's result, a resume, an alert): shown by the
        sinks that can, and kept as an event of this kind."""
        self.store.log_event(Event(kind, {"message": message, **detail}, step))
        for sink in self._sinks:
            sink.say(message)

    def rewind(self, step: int) -> None:
        """Forgets what came after a step, in every sink that can; a resumed run calls it before its first step."""
        for sink in self._all():
            sink.rewind(step)

    def close(self) -> None:
        """Closes every sink, waiting for each a bounded time, and then the store."""
        self._open.close()

    def _all(self) -> Iterator[StoreSink | Guard]:
        yield self._own
        yield from self._sinks

    def _close(self, sink: Guard) -> None:
        sink.close()
        self._tell()

    def _tell(self) -> None:
        """Says what went wrong in sinks since this was called last."""
        for sink in self._sinks:
            for message in sink.news():
                self.say(message, kind="sink", step=self._step, sink=sink.name)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
