"""The run's own store as a sink: metrics, rollouts with their pictures, and what happened."""

from __future__ import annotations

from collections.abc import Sequence

from triune.monitor.metric import Metric, Scored
from triune.monitor.rollouts import Rollout
from triune.monitor.sinks import SINKS, Options, Run
from triune.monitor.store import Event, Store


@SINKS.register("store")
class StoreOptions(Options):
    """The run's own files, which are always written."""

    def open(self, run: Run) -> StoreSink:
        return StoreSink(run)


class StoreSink:
    """Holds the only writing `Store` of the run."""

    def __init__(self, run: Run) -> None:
        self.store = Store(run.run_dir)

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self.store.log_step(step, phase, metrics)

    def log_rollouts(
        self,
        step: int,
        phase: str,
        metrics: Sequence[Metric],
        kept: Sequence[Scored],
        advantages: Sequence[float | None],
        events: Sequence[Event],
    ) -> None:
        self.store.log_step(
            step,
            phase,
            metrics,
            rollouts=[
                Rollout.of(step, phase, one, advantage)
                for one, advantage in zip(kept, advantages, strict=True)
            ],
            media=(medium for one in kept for medium in one.sample.media),
            events=events,
        )

    def rewind(self, step: int) -> None:
        self.store.rewind(step)

    def close(self) -> None:
        self.store.close()
