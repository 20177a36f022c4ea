"""`triune send`: the metrics of a run to a tracker or into a table, once the run is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ValidationError
from rich.console import Console
from tyro.conf import Positional, arg

from triune.core.errors import RecipeError
from triune.core.loading import read
from triune.core.monitorspec import MonitorSpec
from triune.core.provenance import RECIPE_FILE
from triune.monitor.disk import Claim
from triune.monitor.sinks import SINKS, Options, Repeating, Rewindable, Run, Sink
from triune.monitor.sinks.terminal import printable
from triune.monitor.sinks.tracker import Showing
from triune.monitor.store import Store

LIVE = ("store", "terminal", "console")
"""Sinks that show a run while it goes on, or are what is read."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one sink: how many steps it took, how many of them it now has twice, and what went wrong, '' if
    nothing did. A sink that fails gets nothing more."""

    sink: str
    steps: int
    repeated: int = 0
    failed: str = ""


def send_run(run_dir: Path, sinks: Sequence[Any]) -> list[Sent]:
    """Sends every step of every phase, in order, to each of these sinks, which are named as in a recipe.

    A sink that can take back what it has (`csv`, `parquet`, `jsonl`, TensorBoard) is written anew. Raises RecipeError for
    a sink that cannot be sent to, and StorageError if the run cannot be read or is being written.
    """
    chosen = _chosen(sinks)
    recipe = read(file).values if (file := run_dir / RECIPE_FILE).is_file() else {}
    with Store(run_dir, readonly=True) as store:
        claim = Claim(run_dir)  # a run that goes on writes into the same files
        try:
            opened = [(name, options.open(Run(run_dir, None, recipe))) for name, options in chosen]
            return [_send(store, name, sink) for name, sink in opened]
        finally:
            claim.release()


def _chosen(sinks: Sequence[Any]) -> list[tuple[str, Options]]:
    try:
        spec = MonitorSpec.model_validate({"sinks": tuple(sinks)})
    except ValidationError as error:
        raise RecipeError("; ".join(found["msg"] for found in error.errors())) from None
    chosen = [(name, one) for one in spec.sinks for name in SINKS if SINKS[name] is type(one)]
    for name, options in chosen:
        if name in LIVE:
            raise RecipeError(f"nothing is sent to {name}: name a tracker or a table, such as csv")
        if isinstance(options, Showing) and options.examples:
            raise RecipeError(f"{name}: examples are sent while a run goes on; leave them out here")
    if not chosen:
        raise RecipeError("name a sink: triune send RUN csv")
    return [(name, one) for name, one in chosen if isinstance(one, Options)]


def _send(store: Store, name: str, sink: Sink) -> Sent:
    """A failure ends the sending to this sink: whoever asked is there, and can ask again."""
    steps, failed = 0, ""
    try:
        try:
            for _ in _log(store, sink):
                steps += 1
        finally:
            sink.close()
    except Exception as error:  # whatever a tracker's client raises
        failed = f"{type(error).__name__}: {error}"
    return Sent(name, steps, sink.repeated() if isinstance(sink, Repeating) else 0, failed)


def _log(store: Store, sink: Sink) -> Iterator[int]:
    if isinstance(sink, Rewindable):
        sink.rewind(-1)
    times = {(phase, step): time for phase in store.phases() for step, time in store.times(phase).items()}
    for phase, step in sorted(times, key=lambda one: (one[1], times[one])):
        sink.log(step, phase, store.metrics(phase, step))
        yield step


def send(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="folder of a run that is over")],
    sinks: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="SINK [SINK ...]", help="csv, '{kind: wandb, project: eyes}', as in monitor.sinks"),
    ],
) -> int:
    """Send the metrics of a run that is over to trackers, or write them as tables; exit code 1 if a sink failed.

    While a run goes on, monitor.sinks does that. Sending again writes csv, parquet, jsonl and TensorBoard anew.
    """
    out = Console(highlight=False, soft_wrap=True)
    try:
        named = [yaml.safe_load(one) for one in sinks]
    except yaml.YAMLError as error:
        raise RecipeError(f"not a sink: {error}") from None
    results = send_run(run, named)
    for one in results:
        text = f"{one.sink}: {one.steps} steps"
        text += f", {one.repeated} of them are there twice" if one.repeated else ""
        text += f"; failed: {one.failed}" if one.failed else ""
        out.print(printable(text), markup=False)
    return 1 if any(one.failed for one in results) else 0
