"""Curves as the report shows them: per source, per component, and the signs of a run that goes wrong; no layout here."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from triune.monitor.bands import HELD_OUT
from triune.monitor.panels import HEALTH
from triune.monitor.stats import Z, wilson
from triune.monitor.store import Point, Store

Points = Sequence[tuple[float, float]]

FEW = 40
"""Up to so many points each is a dot; more are a moving average over a faint line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: points (step, value), the steps at which the value was not finite, and a band (step, low, high) around it."""

    label: str
    points: Sequence[tuple[float, float]]
    broken: Sequence[int] = ()
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart; `note` says what to look for.

    `scale`: `unit` always shows 0 to 1, so that panels compare; `share` shows percentages, as far as they go; `free`
    fits the values.
    """

    title: str
    lines: Sequence[Line]
    note: str = ""
    scale: Literal["unit", "share", "free"] = "free"


def smooth(points: Points) -> list[tuple[float, float]]:
    """A centred moving average over a fifteenth of the run; the window is cut at the ends."""
    return [(step, mean) for step, mean, _ in _moving(points)]


def _spread(points: Points) -> list[tuple[float, float, float]]:
    """Around the moving average, a standard deviation of the steps in its window to either side."""
    return [(step, mean - std, mean + std) for step, mean, std in _moving(points)]


def _moving(points: Points) -> list[tuple[float, float, float]]:
    """Step, mean and population standard deviation of each window."""
    half = max(1, len(points) // 30)
    sums, squares = [0.0], [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
        squares.append(squares[-1] + value * value)
    out = []
    for index, (step, _) in enumerate(points):
        low, high = max(0, index - half), min(len(points), index + half + 1)
        mean = (sums[high] - sums[low]) / (high - low)
        variance = (squares[high] - squares[low]) / (high - low) - mean * mean
        out.append((step, mean, math.sqrt(max(0.0, variance))))
    return out


def _interval(point: Point) -> tuple[float, float]:
    """95 % over samples: Wilson's for a share (a mean of zeros and ones is one whose variance says so), else the normal one."""
    mean, n = point.mean, point.count
    if 0 <= mean <= 1 and abs(point.std**2 - mean * (1 - mean)) < 1e-9:
        return wilson(mean, n)
    half = Z * point.std / math.sqrt(max(1, n - 1))
    return max(min(0.0, point.min), mean - half), min(max(1.0, point.max), mean + half)


def _line(label: str, points: Iterable[Point]) -> Line:
    points = list(points)
    return Line(
        label,
        [(point.step, point.mean) for point in points if point.count],
        [point.step for point in points if point.nonfinite],
    )


def curves(store: Store) -> dict[str, Panel]:
    """Per source: the training reward and the held-out accuracy.

    Bands: of a long training curve a standard deviation of the steps that its moving average is over, of the accuracy
    the 95 % interval over the samples of each evaluation.
    """
    rewards = store.series("reward")
    held_out: dict[str, dict[int, Point]] = defaultdict(dict)
    for phase in HELD_OUT:
        for (source,), points in store.series("accuracy", phase=phase).items():
            held_out[source] |= {point.step: point for point in points}
    panels = {}
    for source in sorted({*(source for (source,) in rewards), *held_out}):
        lines = []
        if (source,) in rewards:
            line = _line("training reward", rewards[source,])
            lines.append(replace(line, band=_spread(line.points) if len(line.points) > FEW else ()))
        if source in held_out:
            points = [point for _, point in sorted(held_out[source].items())]
            band = [(point.step, *_interval(point)) for point in points if point.count > 1]
            lines.append(replace(_line("held-out accuracy", points), band=band))
        panels[source] = Panel(source, lines, scale="unit")
    return panels


def components(store: Store) -> dict[str, Panel]:
    """Per source with more than one reward component: the mean value of each."""
    lines: dict[str, list[Line]] = defaultdict(list)
    for (source, component), points in sorted(store.series("component", by=("source", "component")).items()):
        lines[source].append(_line(component, points))
    return {source: Panel(source, found, scale="unit") for source, found in lines.items() if len(found) > 1}


def health(store: Store) -> list[Panel]:
    """The signs of a run that trains on while something is wrong; panels without data are left out."""
    found = []
    for declared in HEALTH:
        lines = [
            Line(
                label,
                [(point.step, curve.value(point)) for point in points if point.count],
                [point.step for point in points if point.nonfinite],
            )
            for curve in declared.curves
            for label, points in curve.read(store)
        ]
        if any(line.points or line.broken for line in lines):
            scale = "free" if declared.scale == "log" else declared.scale
            found.append(Panel(declared.title, lines, declared.note, scale))
    return found
