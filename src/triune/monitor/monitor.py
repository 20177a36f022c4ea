"""The monitor: one call per step turns judged rollouts and learner scalars into metrics and hands them to the sinks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import JsonValue

from triune.core.monitorspec import REFLECTION_WORDS
from triune.monitor.metric import Metric, Scored, merge
from triune.monitor.sinks import SINKS, Rewindable, RolloutSink, Run, Sink, Speaking
from triune.monitor.sinks.store import StoreSink
from triune.monitor.source import rollout_metrics
from triune.monitor.store import Event, Store


class Monitor:
    """Opens the sinks of a run; the run's own store is always the first, named or not.

    `sinks`: names from the registry, or sinks that are already open (the monitor closes them too). `words`: the words
    whose use is counted. `rollouts_every`: steps between training steps whose rollouts are kept, 0 for none; those of
    every other phase are always kept. Raises StorageError if the run cannot be written and RecipeError for an unknown
    sink.
    """

    def __init__(
        self,
        run_dir: Path | str,
        sinks: Sequence[str | Sink] = ("store",),
        words: Sequence[str] = REFLECTION_WORDS,
        rollouts_every: int = 1,
        total_steps: int | None = None,
    ) -> None:
        self._words, self._rollouts_every = tuple(words), rollouts_every
        run = Run(Path(run_dir), total_steps)
        with ExitStack() as opened:
            own = StoreSink(run)
            self.store: Store = own.store
            self._sinks: list[Sink] = [own]
            opened.callback(own.close)
            for sink in sinks:
                if sink == "store":
                    continue
                self._sinks.append(SINKS[sink](run) if isinstance(sink, str) else sink)
                opened.callback(self._sinks[-1].close)
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
        metrics = merge([*rollout_metrics(scored, self._words), *scalars])
        keep = phase != "train" or (self._rollouts_every > 0 and step % self._rollouts_every == 0)
        for sink in self._sinks:
            if isinstance(sink, RolloutSink):
                sink.log_rollouts(step, phase, metrics, scored, advantages, keep=keep)
            else:
                sink.log(step, phase, metrics)
        return metrics

    def say(self, message: str, *, kind: str = "note", step: int = 0, **detail: JsonValue) -> None:
        """Tells the reader of the run something that happened once (a probe's result, a resume, an alert): shown by the
        sinks that can, and kept as an event of this kind."""
        self.store.log_event(Event(kind, {"message": message, **detail}, step))
        for sink in self._sinks:
            if isinstance(sink, Speaking):
                sink.say(message)

    def rewind(self, step: int) -> None:
        """Forgets what came after a step, in every sink that can; a resumed run calls it before its first step."""
        for sink in self._sinks:
            if isinstance(sink, Rewindable):
                sink.rewind(step)

    def close(self) -> None:
        """Closes every sink, even when one fails; then raises the first failure."""
        self._open.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
