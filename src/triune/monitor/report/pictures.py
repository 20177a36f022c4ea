"""Pictures for the report: small enough to embed, and boxes read from truths and from answers."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import JsonValue

from triune.core.sample import Frame
from triune.core.verdict import Seen

MAX_SIDE = 512  # pixels; larger pictures are scaled down for the page
_EMBEDDABLE = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
_MAX_BYTES = 200_000  # of an embedded original
_MAX_BOXES = 100  # drawn per picture: a degenerate answer must not make the page unusable

# Possessive, so that a hostile run of digits takes linear time.
_NUMBER = r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?"
_FOUR = rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]"
_LABEL = r"""['"]label['"]\s*:\s*(?:"([^"]*)"|'([^']*)')"""
_ITEM = re.compile(r"\{[^{}]*\}")
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Box:
    """A box in pixels of the stored picture."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as the page shows it: `uri` is a data URI; `size` is (width, height) of the stored one in pixels."""

    uri: str
    size: tuple[int, int]
    path: Path


def load(path: Path | None) -> Picture | None:
    """The picture, re-encoded if it is large or of a kind that browsers do not show; None if it cannot be read."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size, kind = image.size, _EMBEDDABLE.get(image.format or "")
            if kind is None or len(data) > _MAX_BYTES or max(size) > MAX_SIDE:
                image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, format="JPEG", quality=88)
                data, kind = buffer.getvalue(), "image/jpeg"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return Picture(f"data:{kind};base64,{base64.b64encode(data).decode()}", size, path)


def true_boxes(truth: JsonValue, frame: Frame, size: tuple[int, int], seen: Seen | None) -> list[Box] | None:
    """The boxes of a truth `{"boxes": [...], "labels": [...]}` or `[x1, y1, x2, y2]`; None if it is not about boxes."""
    if isinstance(truth, dict) and isinstance(truth.get("boxes"), list):
        boxes, labels = truth["boxes"], truth.get("labels")
    elif _is_box(truth):
        boxes, labels = [truth], None
    else:
        return None
    assert isinstance(boxes, list)
    names = [str(label) for label in labels] if isinstance(labels, list) else []
    names += [""] * (len(boxes) - len(names))
    found = ((box, name) for box, name in zip(boxes, names, strict=False) if _is_box(box))
    return _in_pixels(found, frame, size, seen)


def answered_boxes(response: str, frame: Frame, size: tuple[int, int], seen: Seen | None) -> list[Box]:
    """The boxes that an answer draws, as far as they can be made out: this is for looking, not for judging.

    Reads `{"bbox_2d": [x1, y1, x2, y2], "label": ...}` in either kind of quotes, or else bare lists of four numbers,
    in the last answer block or, without one, in the whole text.
    """
    blocks = _ANSWER.findall(response)
    text = blocks[-1] if blocks else response
    found: list[tuple[Sequence[str], str]] = []
    for item in _ITEM.findall(text):
        if numbers := re.search(_FOUR, item):
            label = re.search(_LABEL, item)
            found.append((numbers.groups(), next(filter(None, label.groups()), "") if label else ""))
    if not found:
        found = [(numbers, "") for numbers in re.findall(_FOUR, text)]
    return _in_pixels(found, frame, size, seen)


def _is_box(value: JsonValue) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    )


def _in_pixels(
    found: Iterable[tuple[object, str]], frame: Frame, size: tuple[int, int], seen: Seen | None
) -> list[Box]:
    """From the frame to pixels of the stored picture, cut to its surroundings; unusable boxes are left out."""
    width, height = size
    scale_x, scale_y = 1.0, 1.0
    if frame == "unit":
        scale_x, scale_y = width, height
    elif frame == "per_mille":
        scale_x, scale_y = width / 1000, height / 1000
    elif frame == "pixels_processed" and seen is not None:
        scale_x, scale_y = width / seen.processed[0], height / seen.processed[1]
    boxes = []
    for numbers, label in found:
        assert isinstance(numbers, Sequence)
        x1, y1, x2, y2 = (float(number) for number in numbers)
        if all(map(math.isfinite, (x1, y1, x2, y2))):
            x1, x2 = (min(max(x * scale_x, -width), 2 * width) for x in sorted((x1, x2)))
            y1, y2 = (min(max(y * scale_y, -height), 2 * height) for y in sorted((y1, y2)))
            boxes.append(Box(x1, y1, x2, y2, label))
    return boxes[:_MAX_BOXES]
