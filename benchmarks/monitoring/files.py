"""How fast metrics are written and how many bytes they take: the run's store beside TensorBoard's event files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from monitoring.made import metrics
from triune.monitor.metric import Metric
from triune.monitor.store import Store


def compare(folder: Path, sources: int, names: int, steps: int) -> dict[str, Any]:
    """The same metrics in both. The store keeps count, mean, deviation, least, greatest and what was not finite of each;
    an event file the mean alone, as `SummaryWriter.add_scalar` writes it, or the four moments as four scalars."""
    made = [metrics(sources, names, step / steps, step) for step in range(min(steps, 50))]
    rows = steps * sources * names
    started = time.process_time()
    with Store(folder / "store") as store:
        for step in range(steps):
            store.log_step(step, "train", made[step % len(made)])
    seconds = time.process_time() - started
    found: dict[str, Any] = {
        "metric_rows": rows,
        "write_rows_per_s": rows / seconds,
        "store_bytes_per_row": _bytes(folder / "store") / rows,
    }
    for label, moments in (
        ("tensorboard", ("mean",)),
        ("tensorboard_moments", ("mean", "std", "min", "max")),
    ):
        started = time.process_time()
        _events(folder / label, made, steps, moments)
        seconds = time.process_time() - started
        found[f"{label}_rows_per_s"] = rows / seconds
        found[f"{label}_bytes_per_row"] = _bytes(folder / label) / rows
    found["size_ratio_vs_tensorboard"] = found["store_bytes_per_row"] / found["tensorboard_bytes_per_row"]
    found["size_ratio_vs_tensorboard_moments"] = (
        found["store_bytes_per_row"] / found["tensorboard_moments_bytes_per_row"]
    )
    return found


def _events(folder: Path, made: list[list[Metric]], steps: int, moments: tuple[str, ...]) -> None:
    writer = EventFileWriter(str(folder), max_queue_size=1000)
    for step in range(steps):
        for metric in made[step % len(made)]:
            tag = f"train/{metric.name}/{metric.label('source')}"
            for moment in moments:
                event = Event(wall_time=time.time(), step=step)
                name = tag if moment == "mean" else f"{tag}/{moment}"
                event.summary.value.add(tag=name, simple_value=getattr(metric, moment))
                writer.add_event(event)
        writer.flush()
    writer.close()


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
