"""Reasoning scenes: math, puzzle, science, chart."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from triune.core.sample import Check
from triune.data.embedded.canvas import COLOURS, PAINTS, SHAPES, SIZE, Ask, Scene, Thing, boxed

_MATH = (Check(verifier="math"),)
LETTERS = ("A", "B", "C", "D")


def _choice(source: str, question: str, answer: str, options: tuple[str, ...]) -> Ask:
    check = Check(verifier="choice", params={"options": list(options), "answer": "boxed"})
    return Ask(source, question, answer, (check,), boxed(answer), "option", options)


def expression(scene: Scene) -> None:
    """A printed sum or difference of one-digit numbers, in a real font: `7+5`."""
    rng = scene.rng
    scene.photo() if rng.random() < 0.3 else scene.plain()
    a, b = (int(v) for v in rng.integers(1, 10, 2))
    plus = bool(rng.random() < 0.6)
    a, b = (a, b) if plus else (max(a, b), min(a, b))
    colour = "white" if scene.pixels.mean() < 120 else "black"
    scene.write(
        f"{a}{'+' if plus else '-'}{b}", int(rng.integers(1, 6)), int(rng.integers(6, 28)), 24, colour
    )
    value = a + b if plus else a - b
    scene.asks.append(Ask("math/expression", "Compute.", str(value), _MATH, boxed(value), "number"))


def sequence(scene: Scene) -> None:
    """Three handwritten digits in arithmetic progression; the next one is asked for."""
    rng = scene.rng
    scene.photo()
    step = int(rng.choice([-2, -1, 1, 2]))
    starts = [s for s in range(10) if 0 <= s + 3 * step <= 9]
    first = int(rng.choice(starts))
    side = 20
    left, top = int(rng.integers(0, 65 - 3 * side)), int(rng.integers(0, 65 - side))
    values = [first + k * step for k in range(3)]
    for k, value in enumerate(values):
        scene.digit(value, left + k * side, top, side)
    answer = values[-1] + step
    scene.asks.append(
        Ask("puzzle/sequence", "Which digit comes next?", str(answer), _MATH, boxed(answer), "number")
    )


def odd_one_out(scene: Scene) -> None:
    """Four cells; three hold the same shape or colour, one differs."""
    rng = scene.rng
    scene.plain()
    by_shape = bool(rng.random() < 0.5)
    same, other = (str(v) for v in rng.choice(SHAPES if by_shape else PAINTS, 2, replace=False))
    fixed = str(rng.choice(PAINTS if by_shape else SHAPES))
    odd = int(rng.integers(4))
    for cell in range(4):
        side = int(rng.integers(18, 26))
        x = 32 * (cell % 2) + int(rng.integers(1, 32 - side))
        y = 32 * (cell // 2) + int(rng.integers(1, 32 - side))
        value = other if cell == odd else same
        scene.shape(*((value, fixed) if by_shape else (fixed, value)), x, y, side)
    scene.asks.append(_choice("puzzle/odd_one_out", "Which cell A B C D differs?", LETTERS[odd], LETTERS))


def lever(scene: Scene) -> None:
    """A beam on a pivot with weights of one to three units at one to three steps; which side sinks?"""
    rng = scene.rng
    scene.plain()
    beam = int(rng.integers(40, 46))
    scene.rectangle("beam", "black", (3, beam, 61, beam + 2))
    scene.shape("triangle", "black", 28, beam + 3, 9)
    torque = [0, 0]
    for side, sign in enumerate((-1, 1)):
        mass, arm = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        torque[side] = mass * arm
        centre, width, height = 32 + sign * arm * 8, 7, 7 * mass
        paint = str(rng.choice(PAINTS))
        scene.rectangle("weight", paint, (centre - width // 2, beam - height, centre + width // 2 + 1, beam))
        for k in range(1, mass):  # a dark seam between units, so that mass can be seen
            scene.rectangle(
                "",
                "black",
                (centre - width // 2, beam - 7 * k, centre + width // 2 + 1, beam - 7 * k + 1),
                False,
            )
    truth = "left" if torque[0] > torque[1] else "right" if torque[1] > torque[0] else "level"
    options = ("left", "right", "level")
    check = Check(verifier="text_exact", params={"answer": "boxed"})
    ask = Ask(
        "science/lever",
        "Which side sinks: left, right or level?",
        truth,
        (check,),
        boxed(truth),
        "option",
        options,
    )
    scene.asks.append(ask)


def thermometer(scene: Scene) -> None:
    """A thermometer from 0 to 100 with a mark every ten; readings are multiples of five."""
    rng = scene.rng
    scene.plain()
    left, zero = int(rng.integers(14, 44)), int(rng.integers(52, 55))
    value = int(rng.integers(0, 21)) * 5
    scene.rectangle("", "white", (left, zero - 50, left + 6, zero), False)
    for mark in range(11):
        length = 7 if mark % 5 == 0 else 4
        y = zero - 5 * mark
        scene.rectangle("", "black", (left + 7, y - 1, left + 7 + length, y), False)
    scene.shape("circle", "red", left - 2, zero, 10)
    scene.rectangle("mercury", "red", (left, zero - round(value / 2), left + 6, zero + 2))
    check = Check(verifier="numeric", params={"abs": 0.5, "answer": "boxed"})
    scene.asks.append(
        Ask("science/thermometer", "What is the temperature?", value, (check,), boxed(value), "scale")
    )


@functools.cache
def _axes(kind: str) -> Any:
    """One figure per kind, kept: building a matplotlib figure costs several times more than drawing on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE / 100, SIZE / 100), dpi=100)
    FigureCanvasAgg(figure)
    return figure.add_axes((0.14, 0.08, 0.84, 0.88) if kind == "bars" else (0.02, 0.02, 0.96, 0.96))


def _render(axes: Any) -> np.ndarray:
    canvas = axes.figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _hex(colour: str) -> str:
    return "#{:02x}{:02x}{:02x}".format(*COLOURS[colour])


def bars(scene: Scene) -> None:
    """A matplotlib bar chart with a grid; the height of one bar, or the tallest bar, is asked for."""
    rng = scene.rng
    axes = _axes("bars")
    axes.clear()
    paints = [str(p) for p in rng.permutation(PAINTS)][: int(rng.integers(3, 5))]
    heights = [int(h) for h in rng.integers(1, 10, len(paints))]
    axes.set(xlim=(-0.6, len(paints) - 0.4), ylim=(0, 10))
    axes.set_xticks([])
    axes.set_yticks([0, 5, 10])
    axes.tick_params(labelsize=4, length=1, pad=0.5, width=0.4)
    axes.grid(axis="y", linewidth=0.4)
    drawn = axes.bar(range(len(paints)), heights, width=0.7, color=[_hex(p) for p in paints])
    scene.pixels = _render(axes)
    for patch, paint in zip(drawn.patches, paints, strict=True):
        low, high = axes.transData.transform(
            [(patch.get_x(), 0), (patch.get_x() + patch.get_width(), patch.get_height())]
        )
        box = (round(low[0]), round(SIZE - high[1]), round(high[0]), round(SIZE - low[1]))
        scene.things.append(Thing("bar", paint, box))
    which = int(rng.integers(len(paints)))
    scene.asks.append(
        Ask("chart/bar_value", f"How tall is the {paints[which]} bar?", str(heights[which]), _MATH,
            boxed(heights[which]), "number")
    )  # fmt: skip
    top = max(heights)
    if heights.count(top) == 1:
        winner = paints[heights.index(top)]
        check = Check(verifier="text_exact", params={"answer": "boxed"})
        scene.asks.append(
            Ask(
                "chart/tallest",
                "Which bar is tallest?",
                winner,
                (check,),
                boxed(winner),
                "option",
                tuple(sorted(paints)),
            )
        )


def pie(scene: Scene) -> None:
    """A matplotlib pie; the colour of the largest share is asked for."""
    rng = scene.rng
    axes = _axes("pie")
    axes.clear()
    paints = [str(p) for p in rng.permutation(PAINTS)]
    while True:
        shares = rng.dirichlet(np.full(4, 3.0))
        order = np.sort(shares)
        if order[-1] > order[-2] + 0.04 and order[0] > 0.05:
            break
    axes.pie(shares, colors=[_hex(p) for p in paints], startangle=float(rng.uniform(0, 360)))
    scene.pixels = _render(axes)
    for paint in paints:
        mask = np.abs(scene.pixels.astype(int) - COLOURS[paint]).sum(-1) < 60
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box = (int(columns[0]), int(rows[0]), int(columns[-1] + 1), int(rows[-1] + 1))
            scene.things.append(Thing("slice", paint, box))
    winner = paints[int(np.argmax(shares))]
    check = Check(verifier="text_exact", params={"answer": "boxed"})
    scene.asks.append(
        Ask("chart/pie", "Which slice is largest?", winner, (check,), boxed(winner), "option", PAINTS)
    )
