"""Every frozen type survives a trip through Parquet exactly."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from triune.core.base import Frozen
from triune.core.sample import Check, EnvSpec, Media, Message, Picture, Response, Sample, Text
from triune.core.schedule import Cosine, Linear, Steps
from triune.core.trajectory import Decisions, Payload, SamplingRule, Trajectory
from triune.core.verdict import Component, RewardEvent, Verdict
from triune.data import parquet

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)
unit = st.floats(0, 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
params = st.dictionaries(names, json_values, max_size=3)
schedules = (
    st.builds(lambda value: Steps(table=((0.1, value), (1.0, 1.0))), unit)
    | st.builds(Linear, start=unit, end=unit)
    | st.builds(Cosine, start=unit, end=unit)
)
responses = st.builds(
    Response,
    text=st.text(),
    label=st.sampled_from([None, "chosen", "rejected"]),
    score=st.none() | unit,
    branch=st.text(),
)


@st.composite
def media(draw: st.DrawFn) -> Media:
    size = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    buffer = io.BytesIO()
    Image.new("RGB", size, draw(st.sampled_from(["red", "blue"]))).save(buffer, "PNG")
    return Media.from_bytes(buffer.getvalue(), uri=draw(st.none() | st.just("pictures/a b.png")))


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    pictures = draw(st.lists(media(), max_size=2))
    blocks = (*(Picture(media=i) for i in range(len(pictures))), Text(text=draw(st.text())))
    checks = [
        Check(verifier=name, weight=draw(unit), params=draw(params), schedule={"iou": draw(schedules)})
        for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
    ]
    return Sample(
        id=draw(names),
        source=draw(names),
        task=draw(names),
        messages=(Message(role="user", content=blocks),),
        media=tuple(pictures),
        truth=draw(json_values),
        checks=tuple(checks),
        normalize=draw(st.booleans()),
        env=draw(st.none() | st.builds(EnvSpec, name=names, params=params)),
        expert=draw(st.none() | st.text()),
        responses=tuple(draw(st.lists(responses, max_size=2))),
        meta=draw(params),
    )


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    n = draw(st.integers(0, 5))
    logp = draw(st.lists(st.floats(-50, 0, width=32), min_size=n, max_size=n))
    forced = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    logp = [math.nan if place else value for value, place in zip(logp, forced, strict=True)]
    arrays = {
        "ids": np.arange(n, dtype=np.int64),
        "pixels": np.zeros((n, 2), np.uint8),
        "latents": np.array([math.nan, math.inf, -0.0, 1e-45], np.float32),
    }
    return Trajectory(
        id=draw(names),
        sample="s",
        source="src",
        task="t",
        group="g",
        rules=((0, SamplingRule(temperature=draw(st.floats(0, 2)), banned=(3, 4))),),
        decisions=Decisions.of(logp, forced=forced),
        payload=Payload(family="tokens", arrays=arrays, media=("a" * 64,), info=draw(params)),
        events=(RewardEvent(decision=0, name="end", value=draw(st.floats(allow_nan=False))),),
        resolved=draw(st.dictionaries(names, unit, max_size=2)),
        seed=draw(st.integers(0, 2**64 - 1)),
    )


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    component = Component(
        name="math", value=draw(unit), weight=1.0, metrics={"iou": draw(unit)}, detail=draw(st.text())
    )
    failed = Component(name="other", value=None, weight=0.5, status="timeout")
    components = draw(st.sampled_from([(component,), (component, failed)]))
    reward = draw(st.floats(allow_nan=False)) if len(components) == 1 else None
    return Verdict(
        id=draw(names), reward=reward, components=components, correct=draw(st.none() | st.booleans())
    )


@FEW
@given(rows=st.lists(samples(), max_size=3))
def test_samples_round_trip(rows: list[Sample], tmp_path: Path) -> None:
    _round_trip(rows, Sample, tmp_path)


@FEW
@given(rows=st.lists(trajectories(), max_size=3))
def test_trajectories_round_trip(rows: list[Trajectory], tmp_path: Path) -> None:
    _round_trip(rows, Trajectory, tmp_path)


@FEW
@given(rows=st.lists(verdicts(), max_size=3))
def test_verdicts_round_trip(rows: list[Verdict], tmp_path: Path) -> None:
    _round_trip(rows, Verdict, tmp_path)


class Scalars(Frozen):
    text: str
    raw: bytes
    maybe: bytes | None = None
    number: float = 0.0
    whole: int | None = 0
    flag: bool | None = None


@FEW
@given(rows=st.lists(st.builds(Scalars, whole=st.none() | st.integers()), max_size=4))
def test_scalars_round_trip_as_native_columns(rows: list[Scalars], tmp_path: Path) -> None:
    _round_trip(rows, Scalars, tmp_path)


def _round_trip(rows: list[Frozen], model: type[Frozen], folder: Path) -> None:
    path = folder / "rows.parquet"
    parquet.write(path, rows, model)
    assert [row.model_dump_json() for row in parquet.read(path, model)] == [
        row.model_dump_json() for row in rows
    ]
