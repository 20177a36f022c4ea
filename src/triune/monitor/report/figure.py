"""The report as one picture, for a README, a chat or a paper's draft. The only module that imports matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image

from triune.monitor.boxes import Box
from triune.monitor.report.cases import Case
from triune.monitor.report.charts import percent, short, smooth
from triune.monitor.report.collect import Panel, Report, Result

_INK, _MUTED, _LINE, _PAPER = "#1f1c19", "#766f67", "#e7e1d9", "#faf8f5"
_ACCENT, _BEFORE, _TRUE, _DRAWN = "#0b7a75", "#a89f94", "#00a7c7", "#ff4d8d"
_COLOURS = ("#0b7a75", "#8663b0", "#cc7a29", "#3a76bd", "#b14a72", "#70802c")
_COLUMNS = 4
_CAPTION = 62  # characters of a line under a picture
_UPSCALED = 256  # pixels; smaller pictures are enlarged to about this

_HEIGHT_TITLE, _HEIGHT_ROW, _HEIGHT_CHARTS, _HEIGHT_CASES = 1.1, 0.24, 2.15, 3.1  # inches


def figure(report: Report) -> bytes:
    """PNG, 1600 pixels wide."""
    curves = [report.curves[s] for s in sorted(report.curves, key=lambda s: (report.task_of.get(s, ""), s))]
    health = list(report.health)[: 2 * _COLUMNS]
    # One of each task, of each kind in turn: only improved ones would flatter the run.
    cases = [task.cases[index % len(task.cases)] for index, task in enumerate(report.cases) if task.cases]
    rows = [*report.tasks.items()]
    blocks: list[tuple[float, Callable[[SubFigure], None]]] = [
        (_HEIGHT_TITLE, lambda part: _title(part, report)),
        (_HEIGHT_ROW * len(rows) + 0.9, lambda part: _gains(part, rows)),
        (_HEIGHT_CHARTS * _rows(curves), lambda part: _panels(part, curves)),
        (_HEIGHT_CHARTS * _rows(health), lambda part: _panels(part, health)),
        (_HEIGHT_CASES * _rows(cases), lambda part: _cases(part, cases)),
    ]
    wanted = [True, bool(rows), bool(curves), bool(health), bool(cases)]
    blocks = [block for block, there in zip(blocks, wanted, strict=True) if there]
    heights = [height for height, _ in blocks]
    # A Figure of its own with the Agg canvas: pyplot would keep global state and might want a display.
    whole = Figure(figsize=(16, sum(heights)), dpi=100, facecolor=_PAPER, layout="constrained")
    FigureCanvasAgg(whole)
    # The outer columns are margins: constrained layout gives subfigures none.
    parts = whole.subfigures(
        len(blocks), 3, height_ratios=heights, width_ratios=[1, 70, 1], squeeze=False, facecolor=_PAPER
    )
    for (_, draw), part in zip(blocks, parts[:, 1], strict=True):
        draw(part)
    buffer = io.BytesIO()
    whole.savefig(buffer, format="png")
    return buffer.getvalue()


def _rows(items: Sequence[object]) -> int:
    return -(-len(items) // _COLUMNS)


def _title(part: SubFigure, report: Report) -> None:
    part.text(0.0, 0.72, _plain(report.name), fontsize=20, fontweight="bold", color=_INK, va="center")
    facts = "   ".join(f"{name} {value}" for name, value in report.facts.items())
    part.text(0.0, 0.36, _plain(facts), fontsize=10, color=_MUTED, va="center")
    if report.mean.after is not None:
        text = f"{percent(report.mean.before)} \N{RIGHTWARDS ARROW} {percent(report.mean.after)}"
        part.text(1.0, 0.7, text, fontsize=24, fontweight="bold", color=_ACCENT, ha="right", va="center")
        part.text(
            0.98,
            0.3,
            f"mean over tasks, {_gain(report.mean)}",
            fontsize=11,
            color=_MUTED,
            ha="right",
            va="center",
        )
    if report.problems:
        part.text(
            0.02,
            0.06,
            _plain("! " + "  ".join(report.problems))[:200],
            fontsize=10,
            color="#b4412d",
            va="center",
        )


def _gain(result: Result) -> str:
    interval = f" [{100 * result.ci95[0]:+.1f}, {100 * result.ci95[1]:+.1f}]" if result.ci95 else ""
    return f"{percent(result.gain, signed=True)} points{interval}"


def _gains(part: SubFigure, rows: Sequence[tuple[str, Result]]) -> None:
    axes = part.subplots()
    axes.set_facecolor(_PAPER)
    for y, (_, result) in enumerate(rows):
        if result.before is not None and result.after is not None:
            axes.plot([result.before, result.after], [y, y], color=_ACCENT, lw=2, alpha=0.5, zorder=2)
            if result.ci95 is not None:
                bounds = [result.before + bound for bound in result.ci95]
                axes.plot(bounds, [y, y], color=_ACCENT, lw=9, alpha=0.18, solid_capstyle="round", zorder=1)
            axes.text(
                1.02, y, f"{percent(result.after)}   {_gain(result)}", va="center", fontsize=10, color=_INK
            )
        if result.blind is not None:
            axes.plot([result.blind], [y], "D", color=_MUTED, markerfacecolor=_PAPER, markersize=5, zorder=3)
        for value, colour in ((result.before, _BEFORE), (result.after, _ACCENT)):
            if value is not None:
                axes.plot([value], [y], "o", color=colour, markersize=8, zorder=3)
    axes.set_yticks(range(len(rows)), [_plain(name) for name, _ in rows], fontsize=11, color=_INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0%", "25%", "50%", "75%", "100%"])
    title = "held-out accuracy: grey before, green after, diamond with the picture hidden"
    axes.set_title(title, fontsize=10, color=_MUTED, loc="left")
    _clean(axes)
    axes.grid(axis="x", color=_LINE)


def _panels(part: SubFigure, panels: Sequence[Panel]) -> None:
    grid = part.subplots(_rows(panels), _COLUMNS, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.set_facecolor("white")
        for index, line in enumerate(panel.lines):
            colour = _COLOURS[
                0 if line.label.startswith("held-out") else (index + len(panel.lines) // 2) % len(_COLOURS)
            ]
            steps = [step for step, _ in line.points]
            if len(line.points) > 40:
                axes.plot(steps, [value for _, value in line.points], color=colour, lw=0.8, alpha=0.25)
                axes.plot(
                    steps, [value for _, value in smooth(line.points)], color=colour, lw=1.8, label=line.label
                )
            else:
                values = [value for _, value in line.points]
                axes.plot(steps, values, color=colour, lw=1.8, marker="o", markersize=3, label=line.label)
            for step in line.broken:
                axes.plot([step], [0.04], "x", color="#b4412d", transform=axes.get_xaxis_transform())
        if panel.scale == "unit":
            axes.set_ylim(min(0, axes.get_ylim()[0]), max(1, axes.get_ylim()[1]))
        axes.set_title(_plain(panel.title), fontsize=10, color=_INK, loc="left", fontweight="bold")
        _clean(axes)
        axes.grid(axis="y", color=_LINE)
        if panel.scale != "unit" or panel is panels[0]:  # the panels of one scale share their lines
            axes.legend(fontsize=7, frameon=False, labelcolor=_MUTED)


def _cases(part: SubFigure, cases: Sequence[Case]) -> None:
    grid = part.subplots(_rows(cases), _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, case in zip(grid.flat, cases, strict=False):
        if case.pictures:
            _draw_picture(axes, case)
        prompt = case.prompt.replace("<image>", "").strip()
        caption = [f"{case.source} ({case.kind}): {prompt}", f"truth {case.truth}"]
        for answer in case.answers:
            mark = {True: "right", False: "wrong", None: "not judged"}[answer.rollout.correct]
            reward = "" if answer.rollout.reward is None else f", reward {short(answer.rollout.reward)}"
            caption.append(f"{answer.when or 'answer'} ({mark}{reward}): {answer.rollout.response.strip()}")
        shown = "\n".join(_plain(text[:_CAPTION] + "..." * (len(text) > _CAPTION)) for text in caption)
        axes.text(
            0, -0.03, shown, transform=axes.transAxes, fontsize=7.5, color=_INK, va="top", linespacing=1.35
        )


def _draw_picture(axes: Axes, case: Case) -> None:
    """The picture; for boxes once per answer, side by side."""
    image = _upscaled(case.pictures[0].path)
    width, height = case.pictures[0].size
    step = width * 1.05
    shown = [answer.boxes for answer in case.answers] if case.boxes is not None else [()]
    for index, drawn in enumerate(shown):
        left = index * step
        axes.imshow(image, extent=(left, left + width, height, 0), interpolation="antialiased")
        for box in case.boxes or ():
            _draw_box(axes, box, left, _TRUE, "--")
        for box in drawn:
            _draw_box(axes, box, left, _DRAWN, "-")
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


def _draw_box(axes: Axes, box: Box, left: float, colour: str, style: str) -> None:
    for edge, line_style, width in (("black", "-", 3.0), (colour, style, 1.6)):
        corner, size = (left + box.x1, box.y1), (box.x2 - box.x1, box.y2 - box.y1)
        axes.add_patch(
            Rectangle(
                corner, *size, fill=False, edgecolor=edge, linewidth=width, linestyle=line_style, alpha=0.9
            )
        )


def _clean(axes: Axes) -> None:
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, labelsize=8, colors=_MUTED)
    axes.set_axisbelow(True)


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: dollars would start a formula, control codes have no glyph."""
    return "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")
