"""How figures are drawn: canvas, colours, fonts, and one function per kind of chart. The only module of the report that imports
matplotlib.

Colours are Okabe and Ito's, told apart with any colour vision; line styles and marks tell lines apart in grey as well.
Text is text: no formulas, and a character that the font lacks is shown as the replacement character.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from triune.monitor.boxes import Box, Marks, Outline
from triune.monitor.report.cases import Case, all_marks
from triune.monitor.report.charts import percent, short
from triune.monitor.report.panels import FEW, Panel, smooth

__all__ = [
    "Axes",
    "Figure",
    "SubFigure",
    "canvas",
    "clean",
    "draw_case",
    "draw_panel",
    "encode",
    "key",
    "plain",
    "style",
]

INK, MUTED, LINE = "#1f1c19", "#5f5953", "#dcd6ce"
ACCENT, BEFORE, BAD, TRUE, DRAWN = "#0072b2", "#8c857d", "#b4412d", "#00c2e0", "#e6007e"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_FONT = "DejaVu Sans"  # comes with matplotlib, so that figures are the same everywhere
_UPSCALED = 256  # pixels; smaller pictures are enlarged to about this
_DPI = 200


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Everything is to be drawn within: fonts embedded as TrueType (type 42), which editors and publishers take."""
    settings: Mapping[str, Any] = {
        "text.parse_math": False,
        "text.usetex": False,
        "font.family": _FONT,
        "font.size": 7,
        "axes.unicode_minus": True,
        "pdf.fonttype": 42,
        "pdf.compression": 6,
        "axes.linewidth": 0.6,
    }
    with mpl.rc_context({**mpl.rcParamsDefault, **settings, "backend": mpl.rcParams["backend"]}):
        yield


def canvas(width: float, height: float, paper: str = "white") -> Figure:
    """A figure in inches. Not pyplot's: that would keep global state and might want a display."""
    found = Figure(figsize=(width, height), facecolor=paper, layout="constrained")
    FigureCanvasAgg(found)
    return found


def encode(pages: Sequence[Figure], kind: Literal["png", "pdf"], dpi: int = _DPI) -> bytes:
    """One PDF of these pages, or the PNG of a single one; the same bytes for the same figure."""
    buffer = io.BytesIO()
    if kind == "pdf":
        with PdfPages(buffer, metadata={"CreationDate": None}) as file:
            for page in pages:
                file.savefig(page)
    else:
        (page,) = pages
        page.savefig(buffer, format="png", dpi=dpi)
        page.set_layout_engine("none")  # it stays as it was laid out, which costs half of the time
    return buffer.getvalue()


def plain(text: str, most: int = 0) -> str:
    """Text on one line, of characters that the font has; cut to `most` of them if that is given."""
    text = text if not most or len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
    known = _glyphs()
    shown = (c if ord(c) in known else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "".join(c if c.isprintable() else " " for c in shown)


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(_FONT)).get_charmap())


def draw_panel(axes: Axes, panel: Panel, order: Sequence[str] = (), size: float = 7.0) -> None:
    """One chart with its title. `order`: labels whose place gives the colour, so that charts of one figure agree."""
    for index, line in enumerate(panel.lines):
        number = (order.index(line.label) if line.label in order else index) % len(COLOURS)
        look: dict[str, Any] = {"color": COLOURS[number], "linestyle": DASHES[number], "lw": 0.17 * size}
        if line.band:
            at, lows, highs = zip(*line.band, strict=True)
            axes.fill_between(at, lows, highs, color=COLOURS[number], alpha=0.2, lw=0)
        steps, values = [step for step, _ in line.points], [value for _, value in line.points]
        if len(line.points) > FEW:
            axes.plot(steps, values, color=COLOURS[number], lw=0.06 * size, alpha=0.3)
            values = [value for _, value in smooth(line.points)]
        else:
            look |= {"marker": MARKS[number], "markersize": 0.4 * size}
        axes.plot(steps, values, label=plain(line.label, 30), **look)
        for step in line.broken:
            axes.plot(
                [step], [0.04], "x", color=BAD, markersize=0.6 * size, transform=axes.get_xaxis_transform()
            )
    if panel.scale == "unit":
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low) if low < -0.05 else 0.0, max(1.0, high) if high > 1.05 else 1.0)
    if panel.scale == "share":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_title(plain(panel.title, 44), fontsize=size, color=INK, loc="left", fontweight="bold")
    clean(axes, size)
    axes.grid(axis="y", color=LINE, lw=0.5)


def key(order: Sequence[str], shown: Collection[str]) -> tuple[list[Line2D], list[str]]:
    """What a legend says of the labels that are shown, where `order` is that of the charts."""
    lines = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % len(DASHES)], lw=1.2)
        for i, label in enumerate(order)
        if label in shown
    ]
    return lines, [plain(label, 60) for label in order if label in shown]


def clean(axes: Axes, size: float = 7.0) -> None:
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, labelsize=0.9 * size, colors=MUTED)
    axes.set_axisbelow(True)


def draw_case(axes: Axes, case: Case, size: float = 7.0, caption: int = 62) -> None:
    """The picture with its boxes and points, for places once per answer, and what was asked and said under it."""
    axes.set_axis_off()
    if case.pictures:
        _draw_picture(axes, case)
    prompt = case.prompt.replace("<image>", "").strip()
    said = [f"{case.source} ({case.kind}): {prompt}", f"truth {case.truth}"]
    for answer in case.answers:
        mark = {True: "right", False: "wrong", None: "not judged"}[answer.rollout.correct]
        reward = "" if answer.rollout.reward is None else f", reward {short(answer.rollout.reward)}"
        said.append(f"{answer.when or 'answer'} ({mark}{reward}): {answer.rollout.response.strip()}")
    shown = "\n".join(plain(text, caption) for text in said)
    axes.text(0, -0.03, shown, transform=axes.transAxes, fontsize=size, color=INK, va="top", linespacing=1.35)


def _draw_picture(axes: Axes, case: Case) -> None:
    image = _upscaled(case.pictures[0].path)
    width, height = case.pictures[0].size
    step = width * 1.05
    shown = [answer.marks for answer in case.answers] if case.marks is not None else [Marks()]
    for index, drawn in enumerate(shown):
        left = index * step
        axes.imshow(image, extent=(left, left + width, height, 0), interpolation="antialiased")
        for marks, colour, dashes in ((case.marks or Marks(), TRUE, "--"), (drawn, DRAWN, "-")):
            for mark in all_marks(marks):
                if mark.image == 0:
                    _draw_mark(axes, mark, left, colour, dashes)
    axes.set_xlim(0, (len(shown) - 1) * step + width)
    axes.set_ylim(height, 0)


def _upscaled(path: object) -> Image.Image:
    with Image.open(str(path)) as image:
        found = image.convert("RGB")
    if max(found.size) > 1024:
        found.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
    factor = _UPSCALED // max(found.size)
    if factor < 2:
        return found
    return found.resize((found.width * factor, found.height * factor), Image.Resampling.NEAREST)


def _draw_mark(axes: Axes, mark: Box | Outline, left: float, colour: str, dashes: str) -> None:
    for edge, line_style, width in (("black", "-", 2.4), (colour, dashes, 1.2)):
        if isinstance(mark, Outline) and len(mark.xy) == 1:
            ((x, y),) = mark.xy
            axes.plot([left + x], [y], "+", color=edge, markersize=7 + width, markeredgewidth=width)
            continue
        corners = (
            [(mark.x1, mark.y1), (mark.x2, mark.y1), (mark.x2, mark.y2), (mark.x1, mark.y2)]
            if isinstance(mark, Box)
            else mark.xy
        )
        look: dict[str, Any] = {"edgecolor": edge, "linewidth": width, "linestyle": line_style, "alpha": 0.9}
        axes.add_patch(Polygon([(left + x, y) for x, y in corners], closed=True, fill=False, **look))


def points(value: float | None, ci95: tuple[float, float] | None) -> str:
    """A gain in points with its interval: +2.1 [+0.4, +3.8]."""
    interval = f" [{100 * ci95[0]:+.1f}, {100 * ci95[1]:+.1f}]" if ci95 else ""
    return f"{percent(value, signed=True)}{interval}"
