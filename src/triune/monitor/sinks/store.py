"""The run's own store as a sink: metrics, rollouts with their pictures, and what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from triune.core.media import Media
from triune.monitor.metric import Metric, Scored
from triune.monitor.rollouts import Advantage, Rollout
from triune.monitor.shown import samples_of
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
        self._besides: tuple[Sequence[Media], Mapping[int, str]] = ((), {})

    def take(self, pictures: Sequence[Media], pieces: Mapping[int, str]) -> None:
        """Pictures and token texts that the next step's rollouts need besides their samples."""
        self._besides = (pictures, pieces)

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self.store.log_step(step, phase, metrics)

    def log_rollouts(
        self,
        step: int,
        phase: str,
        metrics: Sequence[Metric],
        kept: Sequence[Scored],
        advantages: Sequence[Advantage | None],
        events: Sequence[Event],
    ) -> None:
        samples = samples_of(kept)
        (pictures, pieces), self._besides = self._besides, ((), {})
        self.store.log_step(
            step,
            phase,
            metrics,
            rollouts=Rollout.all_of(step, phase, kept, advantages),
            media=[*(medium for sample in samples for medium in sample.media), *pictures],
            events=events,
            samples=samples,
            pieces=pieces,
        )

    def rewind(self, step: int) -> None:
        self.store.rewind(step)

    def close(self) -> None:
        self.store.close()
