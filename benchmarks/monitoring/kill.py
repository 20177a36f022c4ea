"""Processes that are killed with SIGKILL while they write a run: what can be opened afterwards, and what is lost."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from monitoring.made import group
from triune.core.errors import StorageError
from triune.monitor.metric import scalar
from triune.monitor.monitor import Monitor
from triune.monitor.store import Store

SOURCES = ("counting/dots", "ocr/word", "math/sums")
FLUSH_EVERY = 3
LONGEST = 1.0
"""Seconds within which a writer is killed after its first flush."""


@dataclass(frozen=True, slots=True)
class Trial:
    """`flushed`: the last step that the writer said was flushed; `found`: steps that are there; `faults`: what is not as it
    should be."""

    flushed: int
    found: int
    opened: bool
    faults: tuple[str, ...]

    @property
    def lost(self) -> int:
        """Flushed steps that are not there, or not whole."""
        return max(0, self.flushed - self.found) + len(self.faults)


def write(run_dir: Path, said: Connection) -> None:
    """Logs steps, rollouts with pictures and events for ever, and says which step was flushed."""
    with Monitor(run_dir) as monitor:
        for step in range(1, 1_000_000):
            scored = [one for n, source in enumerate(SOURCES) for one in group(10 * step + n, source)]
            monitor.say(f"note {step}", step=step)
            monitor.log_step(step, "train", scored, [scalar("loss", 1.0 / step)], [0.5] * len(scored))
            if step % FLUSH_EVERY == 0:
                monitor.flush()
                said.send(step)


def trials(folder: Path, number: int, seed: int = 0) -> Iterator[Trial]:
    """Kills so many writers, each at a random moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["monitoring.kill", "pyarrow.parquet"]
    )  # imported once, not in every writer
    rng = random.Random(seed)
    for trial in range(number):
        run_dir = folder / f"run{trial:03d}"
        heard, said = context.Pipe(duplex=False)
        writer = context.Process(target=write, args=(run_dir, said))
        writer.start()
        said.close()
        flushed = heard.recv()
        time.sleep(rng.uniform(0, LONGEST))
        writer.kill()
        while True:
            try:
                flushed = heard.recv()
            except (EOFError, OSError):
                break
        writer.join()
        yield look(run_dir, flushed)


def look(run_dir: Path, flushed: int) -> Trial:
    """Reads everything that the run holds, as a reader and then as its next writer."""
    try:
        with Store(run_dir, readonly=True) as store:
            steps, faults = store.steps(), list(_faults(store, flushed))
        with Monitor(run_dir) as monitor:
            if monitor.store.steps() != steps:
                faults.append("the next writer sees other steps")
            monitor.log_step(len(steps) + 1, "train", group(1, SOURCES[0]))
            monitor.flush()
            if monitor.store.steps() != [*steps, len(steps) + 1]:
                faults.append("no step could be added")
    except StorageError as error:
        return Trial(flushed, 0, False, (str(error),))
    return Trial(flushed, len(steps), True, tuple(faults))


def _faults(store: Store, flushed: int) -> Iterator[str]:
    steps = store.steps()
    if steps != list(range(1, len(steps) + 1)):
        yield f"steps {steps}"
    curves = 0
    for name in ("reward", "component", "loss"):
        by = {"reward": ("source",), "component": ("source", "component"), "loss": ()}[name]
        for key, points in store.series(name, by=by).items():
            curves += 1
            if [point.step for point in points] != steps:
                yield f"half a step: {name} of {key} has {len(points)} of {len(steps)} steps"
    if curves != len(SOURCES) * 3 + 1:
        yield f"{curves} curves"
    if store.rollout_steps() != steps:
        yield f"rollouts of {len(store.rollout_steps())} of {len(steps)} steps"
    for step in steps:
        rows = store.rollouts("train", step)
        if len(rows) != len(SOURCES) * 8:
            yield f"step {step} has {len(rows)} rollouts"
        for sha in {sha for row in rows for sha in row.media}:
            if store.media(sha) is None:
                yield f"step {step}: picture {sha} is gone"
    notes = {event.step for event in store.events("note")}
    if missing := set(range(1, flushed + 1)) - notes:
        yield f"events of the steps {sorted(missing)} are gone"
