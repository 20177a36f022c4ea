"""Where metrics go. A sink is one class in one file of this package, or of a package with an entry point
`triune.sink`:

    @SINKS.register("mine")
    class Mine:
        def __init__(self, run: Run) -> None: ...
        def log(self, step, phase, metrics): ...
        def close(self): ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from triune.core.registry import Registry
from triune.monitor.metric import Metric, Scored


@dataclass(frozen=True, slots=True)
class Run:
    """What a sink may want to know when it opens; `total_steps` is None where the end is not known."""

    run_dir: Path
    total_steps: int | None = None


class Sink(Protocol):
    """Takes the metrics of one step of one phase at a time.

    After a resume a step may come again; a sink that keeps what it was given replaces it.
    """

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None: ...

    def close(self) -> None:
        """Writes out whatever is held back."""


@runtime_checkable
class RolloutSink(Sink, Protocol):
    """A sink that also takes rollouts. `advantages` are one per rollout, None where none was formed."""

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
        """Called in place of `log`; with `keep` false this step's rollouts are not wanted, only what they left."""


@runtime_checkable
class Rewindable(Protocol):
    """A sink that can forget what came after a step, for a run that resumes there."""

    def rewind(self, step: int) -> None: ...


@runtime_checkable
class Speaking(Protocol):
    """A sink that can show a message."""

    def say(self, message: str) -> None: ...


SINKS: Registry[Callable[[Run], Sink]] = Registry("sink", "triune.monitor.sinks")
