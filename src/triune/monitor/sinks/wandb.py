"""Weights & Biases, with the extra `wandb`. `mode: offline` (or WANDB_MODE=offline) writes below the run's folder, to be sent
with `wandb sync`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from triune.monitor.names import Namer
from triune.monitor.sinks import SINKS, Run
from triune.monitor.sinks.tracker import COLUMNS, Example, Showing, Tracker, needs, new_id, row


@SINKS.register("wandb")
class WandbOptions(Showing):
    """Weights & Biases."""

    entity: str | None = Field(None, description="user or team; default: that of the login")
    group: str | None = Field(None, description="group of runs that this one belongs to")
    mode: Literal["online", "offline"] | None = Field(None, description="default: WANDB_MODE, else online")

    def open(self, run: Run) -> Wandb:
        with needs("wandb"):
            import wandb

        return Wandb(run, self, wandb)


class Wandb(Tracker):
    """History rows with a column `step`, which every chart has as its axis. Rows cannot be replaced: W&B's own steps only rise,
    and a run that goes back adds rows with the same `step`."""

    kind = "wandb"

    def __init__(self, run: Run, options: WandbOptions, wandb: Any) -> None:
        super().__init__(run, options, Namer(options.names, options.per_source), options.entity or "")
        self._options, self._wandb = options, wandb
        self._run: Any = None

    def connect(self, known: str | None) -> str:
        wandb, options = self._wandb, self._options
        mode = options.mode or wandb.setup().settings.mode
        if mode == "online" and not wandb.login(prompt=False):
            raise PermissionError(
                "not logged in: run `wandb login`, set WANDB_API_KEY, or choose mode: offline"
            )
        known = known or new_id()
        self.run.run_dir.mkdir(parents=True, exist_ok=True)
        # W&B names its folder by the second: resumed within one, a run would write over what it has not sent yet.
        while any((self.run.run_dir / "wandb").glob(f"*run-{time.strftime('%Y%m%d_%H%M%S')}-{known}")):
            time.sleep(0.05)
        self._run = wandb.init(
            project=options.project,
            entity=options.entity,
            group=options.group,
            name=options.name or self.run.name,
            tags=options.tags,
            id=known,
            resume="allow",
            dir=str(self.run.run_dir),
            config=dict(self.run.recipe),
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return known

    def send(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def show(self, step: int, phase: str, examples: Sequence[Example]) -> None:
        # A column each: W&B writes a list of pictures in one cell as its text.
        most = max((len(example.pictures) for example in examples), default=0)
        table = self._wandb.Table(columns=[*COLUMNS, *(f"picture {n + 1}" for n in range(most))])
        for example in examples:
            pictures = [self._wandb.Image(picture) for picture in example.pictures]
            table.add_data(*row(example), *pictures, *[None] * (most - len(pictures)))
        self._run.log({f"{phase}/rollouts": table, "step": step})

    def finish(self) -> None:
        self._run.finish()
