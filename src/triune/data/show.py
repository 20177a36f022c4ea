"""A contact sheet: samples as the policy will meet them, with the truth drawn on the pictures. `triune data show`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from pydantic import JsonValue

from triune.core.sample import Picture, Sample
from triune.data.files import atomic

TILE = 256
MARGIN = 12
LINE = 15
TEXT_LINES = 9
FONT_SIZE = 12
CHARACTERS = 42
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def contact_sheet(samples: Sequence[Sample], path: Path, columns: int = 4) -> None:
    """Writes a PNG with one tile a sample: pictures, source, prompt, truth, checks. Raises DataError for a picture that
    does not decode, StorageError if the file cannot be written."""
    width, height = TILE + MARGIN, TILE + TEXT_LINES * LINE + MARGIN
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, max(1, rows) * height + MARGIN), "white")
    for i, sample in enumerate(samples):
        row, column = divmod(i, columns)
        sheet.paste(tile(sample), (MARGIN + column * width, MARGIN + row * height))
    with atomic(path) as temporary:
        sheet.save(temporary, format="PNG")


def tile(sample: Sample) -> Image.Image:
    """One sample, TILE pixels wide."""
    canvas = Image.new("RGB", (TILE, TILE + TEXT_LINES * LINE), "white")
    pictures = [annotated(sample, index) for index in range(len(sample.media))]
    if pictures:
        side = TILE // max(1, round(len(pictures) ** 0.5 + 0.49))
        for i, picture in enumerate(pictures):
            row, column = divmod(i, TILE // side)
            canvas.paste(_fit(picture, side), (column * side, row * side))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    for number, (text, colour) in enumerate(_caption(sample)):
        draw.text((0, TILE + 2 + number * LINE), text, fill=colour, font=font)
    return canvas


def annotated(sample: Sample, index: int) -> Image.Image:
    """Picture `index`, upscaled where it is tiny so that lines stay thin, with the truth's boxes if they are on it."""
    image = sample.media[index].image()
    scale = max(1, TILE // max(image.size))
    # Nearest: the pixels that the policy sees, not a smoothed version of them.
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    on = next((check.params["image"] for check in sample.checks if "image" in check.params), 0)
    if index != on:
        return image
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(max(10, image.height // 18))
    line = max(1, max(image.size) // 160)
    labels: list[str] = []
    for box, label in boxes(sample):
        if label not in labels:
            labels.append(label)
        colour = COLOURS[labels.index(label) % len(COLOURS)]
        width, height = sample.media[index].size
        unit = {"unit": (width, height), "per_mille": (width / 1000, height / 1000)}.get(
            sample.frame, (1.0, 1.0)
        )
        x1, y1, x2, y2 = (v * u * scale for v, u in zip(box, (*unit, *unit), strict=True))
        # Half-open boxes: the last pixel inside is one before the bound.
        pen.rectangle((min(x1, x2 - 1), min(y1, y2 - 1), x2 - 1, y2 - 1), outline=colour, width=line)
        pen.text(
            (x1 + line + 1, y1 + line), label, fill=colour, font=font, stroke_width=1, stroke_fill="white"
        )
    return image


def boxes(sample: Sample) -> list[tuple[list[float], str]]:
    """The truth's boxes with their labels, in the sample's frame; none if the truth is not boxes."""
    truth: JsonValue = sample.truth
    if isinstance(truth, Mapping) and isinstance(truth.get("boxes"), list):
        found, labels = truth["boxes"], truth.get("labels") or []
        names = [str(label) for label in labels] if isinstance(labels, list) else []
        pairs = [(box, names[i] if i < len(names) else "") for i, box in enumerate(found)]  # type: ignore[arg-type]
    else:
        pairs = [(truth, "")] if any(check.verifier == "box_iou" for check in sample.checks) else []
    return [([float(x) for x in box], label) for box, label in pairs if _is_box(box)]  # type: ignore[union-attr, arg-type]


def _is_box(value: JsonValue) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(x, int | float) for x in value)


def _fit(image: Image.Image, side: int) -> Image.Image:
    ratio = min(side / image.width, side / image.height)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    return image.resize(size, Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.NEAREST)


def _caption(sample: Sample) -> list[tuple[str, str]]:
    last = sample.messages[-1]
    prompt = "".join("[image] " if isinstance(b, Picture) else b.text for b in last.content)
    wrapped = textwrap.wrap(prompt, CHARACTERS)[: TEXT_LINES - 4]
    truth = textwrap.wrap(f"truth: {sample.truth}", CHARACTERS)[: TEXT_LINES - 2 - len(wrapped)]
    checks = ", ".join(f"{check.name} {check.weight:g}" for check in sample.checks)
    lines = [
        (sample.source, "#4363d8"),
        *((text, "black") for text in wrapped),
        *((text, "#b00020") for text in truth),
    ]
    return [*lines, (textwrap.shorten(checks, CHARACTERS), "#666666")]
