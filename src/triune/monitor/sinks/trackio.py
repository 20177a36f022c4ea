"""trackio, with the extra `trackio`: a local database (TRACKIO_DIR), a Space, or a server of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from triune.monitor.names import Namer
from triune.monitor.sinks import SINKS, Run
from triune.monitor.sinks.tracker import COLUMNS, Example, Showing, Tracker, needs, new_id, row


@SINKS.register("trackio")
class TrackioOptions(Showing):
    """trackio."""

    space: str | None = Field(None, description="Space to log to, as USER/NAME; default: this machine")
    server: str | None = Field(None, description="URL of a trackio server, with its write token")
    group: str | None = Field(None, description="group of runs that this one belongs to")

    def open(self, run: Run) -> Trackio:
        with needs("trackio"):
            import trackio
            from trackio.sqlite_storage import SQLiteStorage

        return Trackio(run, self, trackio, SQLiteStorage)


class Trackio(Tracker):
    """One row per step and phase. trackio knows a run by its name, so a default name ends in a part of its own; rows cannot be
    replaced. Its client raises nothing when it cannot write: what a local database lacks at the end is counted then."""

    kind = "trackio"

    def __init__(self, run: Run, options: TrackioOptions, trackio: Any, storage: Any) -> None:
        place = options.space or (options.server or "").partition("?")[0]
        super().__init__(run, options, Namer(options.names, options.per_source), place)
        self._options, self._trackio, self._storage = options, trackio, storage
        self._run: Any = None
        self._rows = self._before = 0

    def connect(self, known: str | None) -> str:
        options = self._options
        name = known or options.name or f"{self.run.name}-{new_id()[:6]}"
        self._run = self._trackio.init(
            project=options.project,
            name=name,
            group=options.group,
            space_id=options.space,
            server_url=options.server,
            config={**self.run.recipe, "tags": list(options.tags)},
            resume="allow" if known else "never",
            embed=False,
            auto_log_gpu=False,  # the monitor measures the machine itself
            auto_log_cpu=False,
        )
        self._before = self._held()
        return name

    def send(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        self._log(dict(values), step)

    def show(self, step: int, phase: str, examples: Sequence[Example]) -> None:
        pictures = [[self._trackio.Image(picture) for picture in example.pictures] for example in examples]
        rows = [[*row(example), images] for example, images in zip(examples, pictures, strict=True)]
        self._log({f"{phase}/rollouts": self._trackio.Table(columns=[*COLUMNS, "pictures"], data=rows)}, step)

    def finish(self) -> None:
        self._run.finish()
        lost = self._before + self._rows - self._held()
        if self._local and lost > 0:
            raise OSError(f"{lost} of {self._rows} rows are not in trackio's database")

    @property
    def _local(self) -> bool:
        return bool(self._run._is_local)

    def _held(self) -> int:
        return (
            int(self._storage.get_log_count(self._options.project, run_id=self._run.id)) if self._local else 0
        )

    def _log(self, values: dict[str, Any], step: int) -> None:
        self._run.log(values, step=step)
        self._rows += 1
