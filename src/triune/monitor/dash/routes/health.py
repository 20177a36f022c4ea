"""Whether the run is healthy: the panels of `monitor/panels.py`, and the gradient of every layer."""

from __future__ import annotations

from fastapi import APIRouter

from triune.monitor.dash.reading import Json, OneStore, number, numbers
from triune.monitor.panels import HEALTH, LAYERS

router = APIRouter()

MOST = 400
"""Points of a curve: a chart is some 300 pixels wide."""


@router.get("/api/health")
def health(store: OneStore, source: str = "") -> Json:
    """Panels with curves `{"label", "step", "mean", "nonfinite"}`; those without any are left out. `source`: only its share of
    what is kept by source."""
    where = {"source": source} if source else {}
    found = []
    for panel in HEALTH:
        curves = [
            {
                "label": label,
                "step": [point.step for point in points],
                "mean": numbers(curve.value(point) for point in points),
                "nonfinite": [point.nonfinite for point in points],
            }
            for curve in panel.curves
            for label, points in curve.read(store, where, MOST)
        ]
        if curves:
            found.append({"title": panel.title, "note": panel.note, "scale": panel.scale, "curves": curves})
    return {"panels": found, "layers": [] if source else _layers(store)}


def _layers(store: OneStore) -> list[Json]:
    """Gradient norm per layer in the order of the network: modules as they come, blocks by number."""
    rows = [
        {
            "layer": label,
            "step": [point.step for point in points],
            "mean": numbers(point.mean for point in points),
            "last": number(points[-1].mean),
        }
        for label, points in LAYERS.read(store, points=MOST)
    ]
    return sorted(rows, key=lambda row: _depth(str(row["layer"])))


def _depth(layer: str) -> tuple[str, int, int]:
    """`vision.embed` comes before `vision.0`, `vision.head` after the last block."""
    module, _, part = layer.partition(".")
    if part.isdigit():
        return module, 1, int(part)
    return module, 0 if part == "embed" else 2, 0
