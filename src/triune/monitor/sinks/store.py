"""The run's own store as a sink: metrics, rollouts with their pictures, and who was dropped and why."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

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
        scored: Sequence[Scored],
        advantages: Sequence[float | None],
        *,
        keep: bool,
    ) -> None:
        kept = list(zip(scored, advantages, strict=True)) if keep else []
        self.store.log_step(
            step,
            phase,
            metrics,
            rollouts=[Rollout.of(step, phase, one, advantage) for one, advantage in kept],
            media=(medium for one, _ in kept for medium in one.sample.media),
            events=[_drop(step, phase, one) for one in scored if one.reason],
        )

    def rewind(self, step: int) -> None:
        self.store.rewind(step)

    def close(self) -> None:
        self.store.close()


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
