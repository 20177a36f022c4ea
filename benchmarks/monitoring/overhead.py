"""What monitoring costs a quickstart run in CPU time, with every rollout kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console

from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.loop import Loop
from triune.monitor.metric import Metric
from triune.monitor.monitor import Monitor
from triune.monitor.sinks import Run
from triune.monitor.sinks.terminal import Terminal
from triune.train.parallel import Quiet


class Nothing(Quiet):
    """Monitoring that is off: it is called, and does nothing."""

    def say(self, *args: Any, **kwargs: Any) -> None:
        pass


class Timed(Monitor):
    """The monitor of a run, which adds up the CPU time of its calls."""

    called = 0.0

    def log_step(self, *args: Any, **kwargs: Any) -> list[Metric]:
        started = time.thread_time()
        try:
            return super().log_step(*args, **kwargs)
        finally:
            self.called += time.thread_time() - started

    @property
    def spent(self) -> float:
        """Seconds, in the calls and in the thread that writes."""
        return self.called + self.cpu_seconds


@dataclass(frozen=True, slots=True)
class Pair:
    """CPU seconds of one step, of all threads and of the processes that judge: with monitoring off, and with it on;
    `spent` of these by it."""

    off: float
    on: float
    spent: float


def pairs(folder: Path, number: int) -> Iterator[Pair]:
    """Two runs of the same recipe and seed, a step of one and a step of the other in turn. The first pair, in which
    everything is imported, is left out."""
    torch.set_num_threads(min(2, torch.get_num_threads()))  # as the quickstart does
    folder.mkdir(parents=True)
    keys = (f"train.total_steps={number + 1}", "train.probe=false", "monitor.rollouts_every=1")
    recipe = Recipe.load(find_recipe("quickstart"), keys)
    with (folder / "terminal.txt").open("w") as file:
        terminal = Terminal(Run(folder / "on", number + 1), Console(file=file))  # the recipe's own sink
        monitor = Timed(folder / "on", [terminal], total_steps=number + 1)
        yield from _turns(
            Loop(recipe, folder / "off", Nothing()), Loop(recipe, folder / "on", monitor), number
        )


def _turns(off: Loop, on: Loop, number: int) -> Iterator[Pair]:
    monitor = on.monitor
    assert isinstance(monitor, Timed)
    with off, on:
        for count in range(number + 1):
            spent = monitor.spent
            order = [lambda: _seconds(off), lambda: _seconds(on)]
            found = [turn() for turn in (order if count % 2 else order[::-1])]
            without, with_it = found if count % 2 else found[::-1]
            if count:
                yield Pair(without, with_it, monitor.spent - spent)


def _seconds(loop: Loop) -> float:
    started = _cpu()
    loop.step()
    loop.monitor.flush()
    return _cpu() - started


def _cpu() -> float:
    """Seconds that this process and the judge's have taken so far."""
    times = [child.cpu_times() for child in psutil.Process().children()]
    return time.process_time() + sum(each.user + each.system for each in times)


def summary(found: Sequence[Pair]) -> dict[str, Any]:
    """Percent of a step's CPU time: `overhead_percent` by the clocks of the threads that do it, `overhead_paired_percent`
    by the difference between the runs; medians, with 95 % bootstrap intervals."""
    direct = [100 * pair.spent / pair.on for pair in found]
    paired = [100 * (pair.on / pair.off - 1) for pair in found]
    return {
        "overhead_percent": statistics.median(direct),
        "overhead_interval": _interval(direct),
        "overhead_paired_percent": statistics.median(paired),
        "overhead_paired_interval": _interval(paired),
        "overhead_pairs": len(found),
        "step_cpu_seconds": statistics.median(pair.off for pair in found),
    }


def _interval(values: Sequence[float]) -> list[float]:
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (10_000, len(values))), axis=1)
    return [float(value) for value in np.percentile(medians, [2.5, 97.5])]
