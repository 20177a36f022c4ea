"""Where metrics go. A sink is one file of this package, or of a package with an entry point `triune.sink`: its options,
which a recipe may set, and what they open:

    @SINKS.register("mine")
    class MineOptions(Options):
        folder: str = Field("out", description="...")
        def open(self, run: Run) -> Sink: ...

A sink that fails is warned of and counted (`triune.monitor.sinks.guard`); it never stops the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from triune.core.base import Frozen
from triune.core.registry import Registry
from triune.monitor.alarms import Alarm
from triune.monitor.metric import Metric, Scored
from triune.monitor.rollouts import Advantage
from triune.monitor.store import Event


@dataclass(frozen=True, slots=True)
class Run:
    """What a sink may want to know when it opens. `total_steps` is None where the end is not known; `recipe` is the resolved
    one as plain data, empty where there is none."""

    run_dir: Path
    total_steps: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's."""
        return self.run_dir.resolve().name


class Sink(Protocol):
    """Takes the metrics of one step of one phase at a time, from one thread.

    After a resume a step may come again; a sink that keeps what it was given replaces it. One that sets `local = True`
    waits for nothing but this machine, and is called by the thread that writes the run's own files; every other one gets
    a thread of its own.
    """

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None: ...

    def close(self) -> None:
        """Writes out whatever is held back."""


@runtime_checkable
class RolloutSink(Sink, Protocol):
    """A sink that also takes rollouts."""

    def log_rollouts(
        self,
        step: int,
        phase: str,
        metrics: Sequence[Metric],
        kept: Sequence[Scored],
        advantages: Sequence[Advantage | None],
        events: Sequence[Event],
    ) -> None:
        """Called in place of `log`, with the rollouts that the recipe has kept, one advantage for each (None where none was
        formed), and what happened to these and to the others, as events of this step."""


@runtime_checkable
class Picking(Protocol):
    """A sink that wants a few rollouts and says which, before they are queued for it."""

    def pick(self, phase: str, kept: Sequence[Scored]) -> Sequence[int]:
        """Positions in `kept`; none: `log` is called in place of `log_rollouts`."""


@runtime_checkable
class Rewindable(Protocol):
    """A sink that can forget what came after a step, for a run that resumes there."""

    def rewind(self, step: int) -> None: ...


@runtime_checkable
class Speaking(Protocol):
    """A sink that can show a message."""

    def say(self, message: str) -> None: ...


@runtime_checkable
class Repeating(Protocol):
    """A sink that cannot replace a step that comes again, and so has it twice."""

    def repeated(self) -> int:
        """How many such steps since this was asked last."""


@runtime_checkable
class Alarmed(Protocol):
    """A sink that can show which alarms hold."""

    def alarms(self, holding: Sequence[Alarm]) -> None:
        """Called when one was raised or is over, with all that hold, the newest last."""


class Options(Frozen):
    """What a recipe may say of a sink; it is opened when the run starts.

    `open` raises RecipeError for what the reader of the recipe has to mend (an extra that is not installed): the run
    does not start. Whatever else goes wrong there or later (no login, no network) is a failure of the sink, and counted.
    """

    def open(self, run: Run) -> Sink:
        raise NotImplementedError


SINKS: Registry[type[Options]] = Registry("sink", "triune.monitor.sinks")
