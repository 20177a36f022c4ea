"""Whether the run is healthy: the panels of `monitor/panels.py`, and the gradient of every layer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from triune.monitor.dash.reading import Json, OneStore, numbers
from triune.monitor.panels import HEALTH, LAYERS
from triune.monitor.store import Store

router = APIRouter()

MAX_POINTS = 1000


@router.get("/api/health")
def health(
    store: OneStore,
    source: str = "",
    since: int | None = None,
    until: int | None = None,
    points: Annotated[int, Query(ge=10, le=MAX_POINTS, description="of each curve")] = 300,
) -> Json:
    """Panels with curves `{"label", "step", "mean", "nonfinite"}`; those without any are left out. `source`: only its share of
    what is kept by source. `since`, `until`: the steps of a zoom; the layers are always those of the whole run."""
    where = {"source": source} if source else {}
    panels = []
    for panel in HEALTH:
        curves = [
            {
                "label": label,
                "step": [point.step for point in found],
                "mean": numbers(curve.value(point) for point in found),
                "nonfinite": [point.nonfinite for point in found],
            }
            for curve in panel.curves
            for label, found in curve.read(store, where, points, since=since, until=until)
        ]
        if curves:
            panels.append({"title": panel.title, "note": panel.note, "scale": panel.scale, "curves": curves})
    return {"panels": panels, "layers": [] if source else _layers(store, points)}


def _layers(store: Store, most: int) -> list[Json]:
    """Gradient norm per layer in the order of the network: modules as they come, blocks by number."""
    rows = [
        {
            "layer": label,
            "step": [point.step for point in curve],
            "mean": numbers(point.mean for point in curve),
            "nonfinite": [point.nonfinite for point in curve],
        }
        for label, curve in LAYERS.read(store, points=most)
    ]
    return sorted(rows, key=lambda row: _depth(str(row["layer"])))


def _depth(layer: str) -> tuple[str, int, int]:
    """`vision.embed` comes before `vision.0`, `vision.head` after the last block."""
    module, _, part = layer.partition(".")
    if part.isdigit():
        return module, 1, int(part)
    return module, 0 if part == "embed" else 2, 0
