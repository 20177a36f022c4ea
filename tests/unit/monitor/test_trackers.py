"""What sinks wrote for others, read with the readers of those others."""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlparse

import pandas as pd
import pytest

from triune.core.errors import RecipeError
from triune.monitor.metric import Metric, scalar
from triune.monitor.monitor import Monitor
from triune.monitor.sinks import SINKS, Options, Run
from triune.monitor.sinks.csv import CsvOptions
from triune.monitor.sinks.mlflow import MlflowOptions
from triune.monitor.sinks.parquet import ParquetOptions
from triune.monitor.sinks.tensorboard import TensorBoardOptions
from triune.monitor.sinks.tracker import Tracker
from triune.monitor.sinks.trackio import TrackioOptions
from triune.monitor.sinks.wandb import WandbOptions
from triune.monitor.store import Store

from .making import group, make_sample

RECIPE = {
    "name": "eyes",
    "train": {"total_steps": 9, "optimizer": {"lr": 1e-6}},
    "data": {"sources": [{"name": "a/b"}]},
}
ODD = "ünïcode 'quoted' \x1b[31m/<script>"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """trackio reads its folder once, when it is imported."""
    os.environ.setdefault("TRACKIO_DIR", str(tmp_path_factory.getbasetemp() / "trackio"))
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_DATA_DIR": str(tmp_path_factory.getbasetemp()),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


def step(value: float) -> list[Metric]:
    return [
        Metric.of("reward", [value, value], source="a/b", task="a"),
        Metric.of("reward", [value], source=ODD, task="a"),
        scalar("loss/policy", math.nan),
        scalar("huge", 1e300),
    ]


def twice(options: Options, folder: Path) -> list[Tracker]:
    """Steps 1 to 3, and again from step 3 by a process that resumed after step 2; an evaluation at the end."""
    opened = []
    for first in (1, 3):
        sink = cast(Tracker, options.open(Run(folder, 9, RECIPE)))
        sink.rewind(first - 1)
        for number in range(first, first + 3):
            sink.log(number, "train", step(number / 10 + first / 100))
        sink.log(first + 2, "eval", step(0.5))
        sink.close()
        opened.append(sink)
    return opened


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    twice(TensorBoardOptions(), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    reward = events.Scalars("train/reward")
    assert [one.step for one in reward] == [1, 2, 3, 4, 5]  # what was taken back is gone
    assert [one.value for one in reward] == pytest.approx([0.11, 0.21, 0.33, 0.43, 0.53])
    assert [one.step for one in events.Scalars("a.b/eval/reward")] == [5]
    tags = events.Tags()
    assert "train/loss/policy" not in tags["scalars"]
    assert events.Scalars("train/huge/nonfinite")[0].value == 1  # float32 does not hold it
    assert len([tag for tag in tags["scalars"] if tag.endswith("/train/reward")]) == 2
    recipe = (
        events.Tensors("recipe/text_summary")
        if "recipe/text_summary" in tags["tensors"]
        else events.Tensors("recipe")
    )
    assert b"total_steps: 9" in recipe[0].tensor_proto.string_val[0]


def test_tensorboard_in_a_folder_of_many_runs(tmp_path: Path) -> None:
    sink = TensorBoardOptions(folder=str(tmp_path / "logs"), project="p").open(Run(tmp_path / "one"))
    sink.log(1, "train", step(0.1))
    sink.close()
    assert len(list((tmp_path / "logs/p/one").glob("events.out.tfevents.*"))) == 1


# -- Weights & Biases --------------------------------------------------------------------------------------------------


def records(file: Path) -> Iterator[Any]:
    """The records of a file of W&B's offline mode: LevelDB's log format behind a header of seven bytes, protobufs in it."""
    from wandb.proto import wandb_internal_pb2

    data, at, held = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # blocks end in padding
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or its last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            held = b""
            yield record


def history(records: list[Any]) -> list[dict[str, Any]]:
    return [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def test_wandb_without_a_network(tmp_path: Path) -> None:
    first, second = twice(WandbOptions(project="eyes", tags=("small",), group="g"), tmp_path / "one")
    files = sorted((tmp_path / "one/wandb").glob("offline-run-*/*.wandb"))
    noted = json.loads((tmp_path / "one/trackers/wandb.json").read_text())
    assert {file.name for file in files} == {f"run-{noted['id']}.wandb"}  # of one run there
    told = [list(records(file)) for file in files]
    (run,) = [record.run for record in told[0] if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, run.run_group, list(run.tags)) == ("eyes", "one", "g", ["small"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["train"] == RECIPE["train"]
    rows = [row for one in told for row in history(one)]
    train = [row for row in rows if "train/reward" in row]
    assert [(row["step"], round(row["train/reward"], 2)) for row in train] == [
        (1, 0.11), (2, 0.21), (3, 0.31), (3, 0.33), (4, 0.43), (5, 0.53),
    ]  # fmt: skip
    assert train[0]["train/huge"] == 1e300
    assert train[0]["train/loss/policy/nonfinite"] == 1
    assert (first.repeated(), second.repeated()) == (0, 1)  # step 3 is there twice


def test_examples_in_a_table(tmp_path: Path) -> None:
    scored = [*group([1.0, 0.0]), *group([1.0, 1.0], make_sample(0, "ocr/word"))]
    with Monitor(tmp_path, [WandbOptions(examples=3), TrackioOptions(examples=3, name="tables")]) as monitor:
        monitor.log_step(1, "train", scored)
        monitor.log_step(1, "eval", scored)
    (table,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/eval/rollouts_*.json")
    rows = json.loads(table.read_text())
    assert rows["columns"] == ["source", "prompt", "response", "truth", "reward", "correct", "picture 1"]
    assert [row[0] for row in rows["data"]] == ["counting/shapes", "ocr/word", "counting/shapes"]
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    (artifact,) = [one.artifact for one in records(file) if one.WhichOneof("record_type") == "artifact"]
    pictures = [one for one in artifact.manifest.contents if one.path.startswith("media/images/")]
    assert len(pictures) == len({one.sample.media[0].sha256 for one in scored})
    with Store(tmp_path, readonly=True) as store:
        assert not store.events("sink")

    from trackio.sqlite_storage import SQLiteStorage

    (logged,) = [row for row in SQLiteStorage.get_logs("triune", "tables") if "eval/rollouts" in row]
    assert len(logged["eval/rollouts"]["_value"]) == 3
    assert logged["eval/rollouts"]["_value"][0]["pictures"][0]["_type"] == "trackio.image"


# -- trackio -----------------------------------------------------------------------------------------------------------


def test_trackio(tmp_path: Path) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    _, second = twice(TrackioOptions(project="eyes"), tmp_path / "one")
    (run,) = {str(one["name"]) for one in SQLiteStorage.get_run_records("eyes")}
    assert run.startswith("one-")
    rows = [row for row in SQLiteStorage.get_logs("eyes", run) if "train/reward" in row]
    assert [(row["step"], round(row["train/reward"], 2)) for row in rows] == [
        (1, 0.11), (2, 0.21), (3, 0.31), (3, 0.33), (4, 0.43), (5, 0.53),
    ]  # fmt: skip
    assert second.repeated() == 1
    config = SQLiteStorage.get_run_config("eyes", run)
    assert config is not None
    assert config["train"] == RECIPE["train"]


# -- MLflow ------------------------------------------------------------------------------------------------------------


def test_mlflow_in_files(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    _, second = twice(MlflowOptions(project="eyes", tags=("small run",)), tmp_path / "one")
    client = MlflowClient(tracking_uri=(tmp_path / "one/mlruns").as_uri())
    experiment = client.get_experiment_by_name("eyes")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["train.optimizer.lr"] == "1e-06"
    assert run.data.tags["small run"] == "true"
    assert run.info.status == "FINISHED"
    told = client.get_metric_history(run.info.run_id, "train/reward")
    assert sorted((one.step, round(one.value, 2)) for one in told) == [
        (1, 0.11), (2, 0.21), (3, 0.31), (3, 0.33), (4, 0.43), (5, 0.53),
    ]  # fmt: skip
    assert second.repeated() == 1
    assert len([name for name in run.data.metrics if name.endswith("/train/reward")]) == 2


def test_mlflow_in_files_has_series_below_series(tmp_path: Path) -> None:
    """Whichever came first, and after a resume: a name that is a file there cannot be a folder too."""
    from mlflow import MlflowClient

    first = [
        Metric.of("reward", [1.0]),
        Metric.of("reward/share_at_max", [0.5]),
        Metric.of("late/part", [2.0]),
    ]
    second = [*first[::-1], Metric.of("late", [3.0])]
    for step, metrics in enumerate((first, second, second)):
        sink = MlflowOptions(project="eyes").open(Run(tmp_path))
        sink.log(step, "train", metrics)
        sink.close()
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("eyes").experiment_id])
    names = ("train/reward", "train/reward.share_at_max", "train/late/part", "train/late.value")
    assert [len(client.get_metric_history(run.info.run_id, name)) for name in names] == [3, 3, 3, 2]


class Server(BaseHTTPRequestHandler):
    """The routes of MLflow's tracking server that a run needs, in memory."""

    asked: list[tuple[str, dict[str, Any]]]
    broken = False

    def do_GET(self) -> None:
        query = {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()}
        self._answer(urlparse(self.path).path, query)

    def do_POST(self) -> None:
        self._answer(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_PATCH(self) -> None:
        self.do_POST()

    def _answer(self, path: str, body: dict[str, Any]) -> None:
        route = path.split("/mlflow/")[-1]
        self.asked.append((route, body))
        info = {
            "run_id": "r1",
            "run_uuid": "r1",
            "experiment_id": "7",
            "status": "RUNNING",
            "artifact_uri": "file:/x",
        }
        answers: dict[str, tuple[int, dict[str, Any]]] = {
            "experiments/get-by-name": (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}),
            "experiments/create": (200, {"experiment_id": "7"}),
            "runs/create": (200, {"run": {"info": info, "data": {}}}),
            "runs/get": (200, {"run": {"info": info, "data": {}}}),
            "runs/update": (200, {"run_info": info}),
            "runs/log-batch": (200, {}),
        }
        code, answer = answers.get(route, (404, {"error_code": "ENDPOINT_NOT_FOUND", "message": route}))
        if self.broken:
            code, answer = 500, {"error_code": "INTERNAL_ERROR", "message": "out of order"}
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    handler = type("Handler", (Server,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}", handler
        listening.shutdown()
        thread.join()


def test_mlflow_over_http(tmp_path: Path, server: tuple[str, type[Server]]) -> None:
    url, handler = server
    many = [Metric.of("reward", [0.5], source=f"source {n}") for n in range(1200)]
    sink = MlflowOptions(uri=url).open(Run(tmp_path, 9, RECIPE))
    sink.log(1, "train", many)
    sink.close()
    routes = [route for route, _ in handler.asked]
    assert routes[:3] == ["experiments/get-by-name", "experiments/create", "runs/create"]
    batches = [
        body["metrics"] for route, body in handler.asked if route == "runs/log-batch" and body.get("metrics")
    ]
    assert max(map(len, batches)) <= 1000
    sent = {one["key"]: one["value"] for batch in batches for one in batch}
    assert sent["source 7/train/reward"] == 0.5
    assert len(sent) == 1203  # one a source, the whole and its deviation, num_tokens
    params = [
        one["key"]
        for route, body in handler.asked
        if route == "runs/log-batch"
        for one in body.get("params", ())
    ]
    assert "train.total_steps" in params
    assert routes[-1] == "runs/update"


def test_a_server_that_is_down_is_counted_and_the_run_goes_on(
    tmp_path: Path, server: tuple[str, type[Server]]
) -> None:
    url, handler = server
    handler.broken = True
    with Monitor(tmp_path, [MlflowOptions(uri=url)]) as monitor:
        for number in (1, 2, 3):
            monitor.log_step(number, "train", group([1.0, 0.0]))
            monitor.flush()
            assert monitor._sinks[0].flush()
    with Store(tmp_path, readonly=True) as store:
        assert store.steps() == [1, 2, 3]
        failed = store.series("sinks/failed", by=("sink",))["mlflow",]
        assert [point.mean for point in failed] == [1.0, 1.0]
        (said, *_) = [str(event.detail["message"]) for event in store.events("sink")]
    assert said.startswith("sink mlflow failed at step 1 of train")
    assert "experiments/get-by-name" in said
    tries = [route for route, _ in handler.asked]
    assert tries == ["experiments/get-by-name"]  # the next one would be a minute later


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("wandb", "wandb"),
        ("trackio", "trackio"),
        ("mlflow", "mlflow"),
        ("tensorboard", "tensorboard.compat.proto.event_pb2"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecipeError, match=rf"pip install 'triune\[{name}\]'"):
        Monitor(tmp_path, [name])
    Monitor(tmp_path).close()  # nothing is left open


def test_wandb_without_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **given: False)
    sink = WandbOptions(mode="online").open(Run(tmp_path))
    with pytest.raises(PermissionError, match="wandb login"):
        sink.log(1, "train", step(0.1))


def test_tokens_are_counted_over_a_resume(tmp_path: Path) -> None:
    found = []
    for first in (1, 3):
        with Monitor(tmp_path, ["tensorboard"]) as monitor:
            monitor.rewind(first - 1)
            for number in range(first, first + 2):
                monitor.log_step(number, "train", group([1.0, 0.0]))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [one.value for one in events.Scalars("train/num_tokens")]
    assert len(found) == 4
    assert found == [found[0] * number for number in (1, 2, 3, 4)]


# -- exports -----------------------------------------------------------------------------------------------------------


def test_csv_and_parquet_hold_what_jsonl_holds(tmp_path: Path) -> None:
    sinks = [SINKS[name]().open(Run(tmp_path)) for name in ("jsonl", "csv", "parquet")]
    for sink in sinks:
        sink.log(1, "train", step(0.1))
        sink.log(1, "eval", step(0.2))
        sink.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for frame in (pd.read_csv(tmp_path / "metrics.csv"), pd.read_parquet(tmp_path / "metrics.parquet")):
        assert list(frame.columns) == list(lines[0])
        for line, (_, row) in zip(lines, frame.iterrows(), strict=True):
            for name, value in line.items():
                if name == "labels":
                    assert json.loads(row[name]) == value
                else:
                    assert pd.isna(row[name]) if value is None else row[name] == value


@pytest.mark.parametrize("options", [CsvOptions(), ParquetOptions(every=2), ParquetOptions(every=1)])
def test_exports_are_read_while_they_are_written_and_go_back(options: Options, tmp_path: Path) -> None:
    def steps() -> list[tuple[int, float]]:
        path = tmp_path / ("metrics.csv" if isinstance(options, CsvOptions) else "metrics.parquet")
        frame = pd.read_csv(path) if path.is_file() else pd.read_parquet(path)
        mine = frame[(frame.name == "huge") & (frame.phase == "train")]
        return list(zip(mine.step.tolist(), mine["mean"].tolist(), strict=True))

    sink = options.open(Run(tmp_path))
    for number in (1, 2, 3, 4):
        sink.log(number, "train", [scalar("huge", float(number))])
    assert steps() == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    # The process is killed here: another one finds whole files and resumes after step 1.
    (tmp_path / "metrics.parquet").mkdir(exist_ok=True)
    (tmp_path / "metrics.parquet/00000009.partial").write_bytes(b"half")
    other = options.open(Run(tmp_path))
    cast(Any, other).rewind(1)
    other.log(2, "train", [scalar("huge", 20.0)])
    other.log(2, "eval", [scalar("huge", 5.0)])
    other.close()
    assert steps() == [(1, 1.0), (2, 20.0)]
