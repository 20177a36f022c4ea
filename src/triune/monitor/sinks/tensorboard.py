"""TensorBoard event files, with the extra `tensorboard`; neither TensorFlow nor torch is needed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field

from triune.monitor.names import Namer
from triune.monitor.sinks import SINKS, Run
from triune.monitor.sinks.tracker import Tracker, TrackerOptions, needs


@SINKS.register("tensorboard")
class TensorBoardOptions(TrackerOptions):
    """TensorBoard event files."""

    folder: str = Field(
        "", description="where runs lie as PROJECT/NAME; default: `tensorboard` in the run's folder"
    )

    def open(self, run: Run) -> TensorBoard:
        with needs("tensorboard"):
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.plugins.text.summary_v2 import text_pb
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

        return TensorBoard(run, self, EventFileWriter, Event, text_pb)


class TensorBoard(Tracker):
    """Scalars are float32 there; what is larger is counted as not finite. Going back writes a mark by which readers forget
    what came after a step."""

    kind = "tensorboard"
    replaces = True

    def __init__(self, run: Run, options: TensorBoardOptions, writer: Any, event: Any, text: Any) -> None:
        largest = float(np.finfo(np.float32).max)
        super().__init__(
            run, options, Namer(options.names, options.per_source, largest=largest), options.folder
        )
        self._open, self._event, self._text = writer, event, text
        below = Path(options.folder) / options.project / (options.name or run.name)
        self.folder = below if options.folder else run.run_dir / "tensorboard"
        self._writer: Any = None

    def connect(self, known: str | None) -> str:
        self._writer = self._open(str(self.folder))
        if not known and self.run.recipe:
            recipe = yaml.safe_dump(dict(self.run.recipe), sort_keys=False, allow_unicode=True)
            indented = "".join(f"    {line}\n" for line in recipe.splitlines())  # Markdown, as it stands
            self._writer.add_event(self._event(wall_time=time.time(), summary=self._text("recipe", indented)))
        return known or "files"

    def send(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        event = self._event(wall_time=time.time(), step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._writer.add_event(event)
        self._writer.flush()

    def go_back(self, step: int) -> None:
        event = self._event(wall_time=time.time(), step=step + 1)
        event.session_log.status = event.session_log.START
        self._writer.add_event(event)

    def finish(self) -> None:
        self._writer.close()
