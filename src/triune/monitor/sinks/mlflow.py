"""MLflow, with the extra `mlflow` (mlflow-skinny): a tracking server, or files."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from triune.core.loading import flat
from triune.monitor.names import Namer, part, plain
from triune.monitor.sinks import SINKS, Run
from triune.monitor.sinks.tracker import Tracker, TrackerOptions, needs

BATCH, PARAMS, LONGEST = 1000, 100, 6000
"""What MLflow takes in one request: metrics, parameters, and characters of a parameter's value."""


@SINKS.register("mlflow")
class MlflowOptions(TrackerOptions):
    """MLflow."""

    uri: str = Field(
        "",
        description="tracking server, or file:FOLDER; default: MLFLOW_TRACKING_URI, else `mlruns` in the run's folder",
    )

    def open(self, run: Run) -> Mlflow:
        with needs("mlflow"):
            import mlflow
            from mlflow.entities import Metric, Param

        return Mlflow(run, self, mlflow.MlflowClient, Metric, Param)


class Mlflow(Tracker):
    """Batches over MLflow's client. A metric keeps every value that it was given, so steps that come again are there twice."""

    kind = "mlflow"

    def __init__(self, run: Run, options: MlflowOptions, client: Any, metric: Any, param: Any) -> None:
        self._uri = (
            options.uri
            or os.environ.get("MLFLOW_TRACKING_URI")
            or (run.run_dir / "mlruns").resolve().as_uri()
        )
        super().__init__(run, options, Namer(options.names, options.per_source, plain), self._uri)
        self._make, self._metric, self._param = client, metric, param
        self._client: Any = None
        self._run_id = ""
        self._in_files = "://" not in self._uri or self._uri.startswith("file:")
        self._leaves, self._folders = set[str](), set[str]()

    def connect(self, known: str | None) -> str:
        if self._in_files:
            # MLflow wants to be told that files are meant; a recipe that names a folder has said so.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = self._make(tracking_uri=self._uri)
        if known:
            self._client.update_run(known, status="RUNNING")
            self._run_id = known
            for name in self._client.get_run(known).data.metrics if self._in_files else ():
                self._take(name)
            return known
        experiment = self._client.get_experiment_by_name(self.options.project)
        number = (
            experiment.experiment_id if experiment else self._client.create_experiment(self.options.project)
        )
        tags = {part(tag, plain): "true" for tag in self.options.tags}
        run = self._client.create_run(number, run_name=self.options.name or self.run.name, tags=tags)
        self._run_id = str(run.info.run_id)
        params = [
            self._param("".join(c if plain(c) or c == "." else "_" for c in key), str(value)[:LONGEST])
            for key, value in flat(dict(self.run.recipe))
        ]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + PARAMS])
        return self._run_id

    def send(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        place = self._apart if self._in_files else str
        metrics = [self._metric(place(name), value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + BATCH])

    def _apart(self, name: str) -> str:
        """There a series is a file, and cannot be a folder too: below `train/reward` it is `train/reward.share_at_max`."""
        made, *rest = name.split("/")
        for piece in rest:
            made += f".{piece}" if made in self._leaves else f"/{piece}"
        if made in self._folders:
            made += ".value"
        self._take(made)
        return made

    def _take(self, name: str) -> None:
        self._leaves.add(name)
        while "/" in name:
            name = name.rpartition("/")[0]
            self._folders.add(name)

    def finish(self) -> None:
        self._client.set_terminated(self._run_id)
