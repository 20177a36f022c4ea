"""Curves as inline SVG: colours come from the page's style sheet, so they follow its light and dark theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from triune.monitor.report.markup import Markup, tag
from triune.monitor.report.panels import FEW, Line, Panel, Points, smooth
from triune.monitor.report.results import Result

COLOURS = 6  # classes c0 to c5 of the style sheet
_FAINT_POINTS = 240  # what the faint line is thinned to
_WIDTH, _HEIGHT = 320.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 38.0, 8.0, 8.0, 20.0


def line_chart(panel: Panel, colours: Sequence[int] = ()) -> Markup:
    """One panel with its legend; `colours` gives each line the number of its colour, by default in order."""
    xs = [step for line in panel.lines for step, _ in line.points] + [
        s for line in panel.lines for s in line.broken
    ]
    ys = [value for line in panel.lines for _, value in line.points]
    ys += [bound for line in panel.lines for _, *bounds in line.band for bound in bounds]
    x_range = (min(xs, default=0), max(xs, default=1))
    ticks = _ticks(ys, panel.scale)
    plot = _Plot(x_range, (ticks[0], ticks[-1]))
    colours = colours or range(len(panel.lines))
    marks = [
        plot.line(line, f"c{colour % COLOURS}") for line, colour in zip(panel.lines, colours, strict=False)
    ]
    legend = tag(
        "div",
        (
            tag(
                "span",
                tag("i", class_=f"swatch c{colour % COLOURS}"),
                line.label,
                " ",
                tag("b", _last(line, panel)),
            )
            for line, colour in zip(panel.lines, colours, strict=False)
        ),
        class_="legend",
    )
    return tag(
        "figure",
        tag("figcaption", tag("h3", panel.title), tag("p", panel.note) if panel.note else None),
        tag(
            "svg",
            plot.axes(ticks, panel.scale),
            marks,
            viewbox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
            role="img",
            aria_label=panel.title,
        ),
        legend,
        class_="chart",
    )


def dumbbell(result: Result, *, width: float = 200.0) -> Markup:
    """Before and after on one scale from 0 to 1, the interval of the gain around after, and the accuracy of other evaluations."""
    height, pad = 22.0, 7.0
    middle = height / 2

    def x(value: float) -> str:
        return f"{pad + min(1.0, max(0.0, value)) * (width - 2 * pad):.1f}"

    parts: list[Markup] = [
        tag("line", x1=x(v), x2=x(v), y1=3, y2=height - 3, class_="grid") for v in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for name, other in result.others.items():
        title = _title(f"{name} {percent(other)}")
        if name == "clean":
            parts.append(tag("line", title, x1=x(other), x2=x(other), y1=5, y2=height - 5, class_="clean"))
        else:
            parts.append(tag("path", title, d=_diamond(float(x(other)), middle), class_="blind"))
    if result.before is not None and result.after is not None:
        parts.append(
            tag("line", x1=x(result.before), x2=x(result.after), y1=middle, y2=middle, class_="gain")
        )
        if result.ci95 is not None:
            low, high = (x(result.before + bound) for bound in result.ci95)
            parts.append(tag("line", x1=low, x2=high, y1=middle, y2=middle, class_="interval"))
    for name, value in (("before", result.before), ("after", result.after)):
        if value is not None:
            parts.append(
                tag("circle", _title(f"{name} {percent(value)}"), cx=x(value), cy=middle, r=4.5, class_=name)
            )
    return tag("svg", parts, viewbox=f"0 0 {width:.0f} {height:.0f}", class_="dumbbell", role="img")


def forest(gain: float, ci95: tuple[float, float] | None, widest: float, *, width: float = 200.0) -> Markup:
    """A difference with its interval on a scale from -`widest` to `widest`, and where 0 is."""
    height, pad = 22.0, 7.0
    middle = height / 2

    def x(value: float) -> str:
        return f"{pad + (value / widest + 1) / 2 * (width - 2 * pad):.1f}"

    parts = [tag("line", x1=x(0.0), x2=x(0.0), y1=2, y2=height - 2, class_="clean")]
    if ci95 is not None:
        low, high = map(x, ci95)
        parts.append(tag("line", x1=low, x2=high, y1=middle, y2=middle, class_="interval"))
    parts.append(
        tag("circle", _title(percent(gain, signed=True)), cx=x(gain), cy=middle, r=4.5, class_="after")
    )
    return tag("svg", parts, viewbox=f"0 0 {width:.0f} {height:.0f}", class_="dumbbell", role="img")


def percent(value: float | None, *, signed: bool = False) -> str:
    """62.4%, or with a sign, in points: +21.3."""
    if value is None:
        return "–"
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}%"


def short(value: float) -> str:
    """Three significant digits: 0.412, 1.2e-5, 15,300."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.2e}".replace("e-0", "e-").replace(".00e", "e")
    return f"{value:.3g}"


class _Plot:
    """Places data on the drawing area."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.x_range, self.y_range = x_range, y_range

    def x(self, step: float) -> float:
        low, high = self.x_range
        share = (step - low) / (high - low) if high > low else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        share = (min(max(value, low), high) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Points, class_: str) -> Markup:
        shown = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in points)
        return tag("polyline", points=shown, class_=class_)

    def area(self, band: Sequence[tuple[float, float, float]], colour: str) -> Markup:
        low, high = (
            _thin([(step, low) for step, low, _ in band]),
            _thin([(step, high) for step, _, high in band]),
        )
        around = [*low, *reversed(high)]
        shown = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in around)
        return tag("polygon", points=shown, class_=f"band {colour}")

    def line(self, line: Line, colour: str) -> list[Markup]:
        marks = [
            tag(
                "path",
                _title(f"{line.label}: not finite at step {step}"),
                d=_cross(self.x(step)),
                class_="broken",
            )
            for step in line.broken
        ]
        if line.band:
            marks.append(self.area(line.band, colour))
        points = list(line.points)
        if len(points) > FEW:
            marks.append(self.path(_thin(points), f"{colour} faint"))
            marks.append(self.path(_thin(smooth(points)), f"{colour} bold"))
        else:
            marks.append(self.path(points, f"{colour} bold"))
            marks += [
                tag(
                    "circle",
                    _title(f"{line.label}, step {step}: {short(value)}"),
                    cx=f"{self.x(step):.1f}",
                    cy=f"{self.y(value):.1f}",
                    r=2.4,
                    class_=f"dot {colour}",
                )
                for step, value in points
            ]
        return marks

    def axes(self, ticks: Sequence[float], scale: str) -> list[Markup]:
        marks = []
        for value in ticks:
            y = f"{self.y(value):.1f}"
            marks.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
            label = f"{100 * value:.3g}%" if scale == "share" else short(value)
            marks.append(tag("text", label, x=_LEFT - 5, y=f"{self.y(value) + 3:.1f}", class_="tick end"))
        first, last = self.x_range
        marks.append(tag("text", f"step {first:.0f}", x=_LEFT, y=_HEIGHT - 5, class_="tick"))
        if last > first:
            marks.append(tag("text", f"{last:.0f}", x=_WIDTH - _RIGHT, y=_HEIGHT - 5, class_="tick end"))
        return marks


def _last(line: Line, panel: Panel) -> str:
    """The value at the end, over as many steps as the smoothed line averages."""
    if not line.points:
        return ""
    value = (smooth(line.points) if len(line.points) > FEW else line.points)[-1][1]
    return percent(value) if panel.scale == "share" else short(value)


def _thin(points: Points) -> Points:
    """Means over equal bins, so that long runs stay small on the page."""
    if len(points) <= _FAINT_POINTS:
        return points
    bounds = [round(index * len(points) / _FAINT_POINTS) for index in range(_FAINT_POINTS + 1)]
    bins = [points[low:high] for low, high in pairwise(bounds)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in bins]


def _ticks(values: Sequence[float], scale: str) -> list[float]:
    """Round numbers that span the values; from 0 on if they are not far from it."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0 and high <= 1 and (scale == "unit" or (scale == "share" and high > 0.4)):
        return [0.0, 0.5, 1.0]
    if low >= 0 and low < 0.6 * high:
        low = 0.0
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if high else (0.0, 1.0)
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.floor(low / step + 1e-9)
    return [index * step for index in range(first, math.ceil(high / step - 1e-9) + 1)]


def _title(text: str) -> Markup:
    return tag("title", text)


def _cross(x: float) -> str:
    y = _HEIGHT - _BOTTOM
    return f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"


def _diamond(x: float, y: float) -> str:
    return f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z"
