"""Boxes, points and outlines of truths and answers in pixels of the stored picture: for looking, not for judging.

Reports and the dashboard draw what this reads. What the verifiers' layouts have in common is read wherever it stands; only
the order of the numbers and their scale are taken from the checks, because they cannot be seen from an answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, TypeGuard

from pydantic import JsonValue

from triune.core.sample import Check, Frame
from triune.core.verdict import Seen

MAX_MARKS = 500
"""Marks that are kept of one answer or truth; more are counted."""
_MAX_TEXT = 200_000  # characters of a truth that is JSON in a text

_BOX_KEYS = ("bbox_2d", "bbox", "box_2d", "box", "gt_bbox")
_POINT_KEYS = ("point_2d", "point", "coordinate", "start_coordinate")
_LABEL_KEYS = ("label", "affordance", "name")
_POINTING = ("point", "click", "gui")
"""Words in names of verifiers that a bare pair of numbers is a point for."""
_LISTS = frozenset(
    {"ordered_list", "unordered_set", "ndcg", "jigsaw", "temporal_iou", "event_order", "box3d_iou"}
)
"""Verifiers whose lists of numbers are no places in a picture."""

# Possessive or bounded, so that a hostile run of digits takes linear time.
_NUMBER = r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?"
_N = rf"\s*+({_NUMBER})\s*+"
_FOUR = re.compile(rf"[\[(]{_N},{_N}(?:\)\s*+,?\s*+\(|,){_N},{_N}[\])]")
_TWO = re.compile(rf"[\[(]{_N},{_N}[\])]")
_CALL = re.compile(rf"\(\s*+x\s*+={_N},\s*+y\s*+={_N}\)")
_KEYED_POINT = re.compile(rf"""['"](?:{"|".join(_POINT_KEYS)})['"]\s*+:\s*+[\[(]{_N},{_N}[\])]""")
_LABEL = re.compile(rf"""['"](?:{"|".join(_LABEL_KEYS)})['"]\s*+:\s*+(?:"([^"]*)"|'([^']*)')""")
_IMAGE = re.compile(r"""['"]image['"]\s*+:\s*+(\d{1,4})\b""")
_ITEM = re.compile(r"\{[^{}]*\}")
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_TAGS = re.compile(
    r"(?:<ref>|<\|object_ref_start\|>)(?P<name>[^<]{0,200})|(?:<box>|<\|box_start\|>)(?P<box>[^<a-zA-Z]{0,4000})"
)
_LOC = re.compile(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})>([^<;]{0,200})")
_MOLMO = re.compile(r"<points?\s([^<>]{1,20000})>")
_ATTRIBUTE = re.compile(
    rf"\b([xy])(\d{{0,4}})\s{{0,3}}=\s{{0,3}}\"({_NUMBER})\"|\balt\s{{0,3}}=\s{{0,3}}\"([^\"]{{0,200}})\""
)


class Canvas(NamedTuple):
    """A picture to draw on: (width, height) in pixels as it is stored, and after the processor where that is known."""

    size: tuple[int, int]
    processed: tuple[int, int] | None = None

    @classmethod
    def of(cls, seen: Seen) -> Canvas:
        return cls(seen.original, seen.processed)


@dataclass(frozen=True, slots=True)
class Box:
    """In pixels of stored picture number `image`, cut to its surroundings; `written` are the numbers as they stand."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""
    image: int = 0
    written: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Outline:
    """A polygon, or with one corner a point, as in `Box`: `xy` holds (x, y) of every corner."""

    xy: tuple[tuple[float, float], ...]
    label: str = ""
    image: int = 0
    written: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Marks:
    """`unplaced` counts what is on a picture that is not there, in a frame whose size is not known, or not finite; `more`
    what was left out beyond MAX_MARKS."""

    boxes: tuple[Box, ...] = ()
    points: tuple[Outline, ...] = ()
    polygons: tuple[Outline, ...] = ()
    unplaced: int = 0
    more: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """What the checks of a sample say of its coordinates."""

    order: str = "xyxy"
    point_order: str = "xy"
    scale: float | None = None
    image: int = 0
    keys: tuple[str, ...] = ()
    pointing: bool = False
    placed: bool = True

    @classmethod
    def of(cls, checks: Iterable[Check]) -> Layout:
        """Of the first check that says something of places. Reads their parameters only: it needs no verifier's code."""
        checks = tuple(checks)
        params: dict[str, Any] = {}
        for check in checks:
            for name in ("order", "scale", "image", "box_key", "point_key"):
                if name in check.params:
                    params.setdefault(name, check.params[name])
        order, scale, image = params.get("order"), params.get("scale"), params.get("image")
        names = [check.verifier for check in checks]
        return cls(
            order=order if order in ("yxyx", "xywh", "cxcywh") else "xyxy",
            point_order="yx" if order in ("yx", "yxyx") else "xy",
            scale=float(scale) if _is_number(scale) and scale > 0 else None,
            image=image if isinstance(image, int) else 0,
            keys=tuple(
                key for key in (params.get("box_key"), params.get("point_key")) if isinstance(key, str)
            ),
            pointing=any(word in name for name in names for word in _POINTING),
            placed=not any(name in _LISTS for name in names),
        )


_PLAIN = Layout()
_NO_MARKS = Marks()


class _Raw(NamedTuple):
    """Numbers as they were written: `kind` is box, point or polygon; `scale` in place of the frame where the layout has
    one of its own."""

    kind: str
    numbers: tuple[float, ...]
    label: str = ""
    image: int | None = None
    scale: float | None = None
    order: str | None = None


def true_marks(
    truth: JsonValue, frame: Frame, canvases: Sequence[Canvas], layout: Layout = _PLAIN
) -> Marks | None:
    """The marks of a truth; None if it is not about places.

    Reads a box `[x1, y1, x2, y2]`, `{"boxes": [...], "labels": [...], "images": [...]}`, `{"points": ...}`, `{"polygon": ...}`,
    items `{"bbox_2d": ..., "point_2d": ..., "label": ...}`, alone or in a list, any of these as JSON in a text, and a point
    `[x, y]` where a check is about points.
    """
    found = _of_truth(truth, layout) if layout.placed else None
    return None if found is None else _place(found, frame, canvases, _PLAIN, layout.image)


def answered_marks(
    response: str,
    frame: Frame,
    canvases: Sequence[Canvas],
    layout: Layout = _PLAIN,
    truth: Marks | None = _NO_MARKS,
) -> Marks:
    """The marks that an answer draws, as far as they can be made out.

    Reads items with keys in either kind of quotes, tags of boxes and points, location tokens and calls `click(x=1, y=2)`, in
    the last answer block or, without one, in the whole text. Where there are none, and the truth is about places, bare
    brackets of four numbers, or of two where it has points.
    """
    blocks = _ANSWER.findall(response)
    text = blocks[-1] if blocks else response
    found = list(chain(_items(text, layout), _tagged(text)))
    if not found and truth is not None:
        found = [_Raw("box", _floats(numbers)) for numbers in _FOUR.findall(text)]
        if not found and (truth.points or layout.pointing):
            found = [_Raw("point", _floats(numbers)) for numbers in _TWO.findall(text)]
    return _place(found, frame, canvases, layout, layout.image)


# -- truths ------------------------------------------------------------------------------------------------------------


def _of_truth(truth: JsonValue, layout: Layout) -> list[_Raw] | None:
    if isinstance(truth, str):
        text = truth.strip().removeprefix("<answer>").removesuffix("</answer>").strip()
        if not text.startswith(("[", "{")) or len(text) > _MAX_TEXT:
            return None
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return None if isinstance(read, str) else _of_truth(read, layout)
    if isinstance(truth, dict):
        return _of_object(truth, layout)
    if not isinstance(truth, list):
        return None
    if _numbers(truth, 4):
        return [_Raw("box", _floats(truth))]
    if layout.pointing and _numbers(truth, 2):
        return [_Raw("point", _floats(truth))]
    items = [_item(one, layout) if isinstance(one, dict) else _bare(one) for one in truth]
    return [raw for item in items for raw in item] if items and all(items) else None


def _of_object(truth: dict[str, Any], layout: Layout) -> list[_Raw] | None:
    found: list[_Raw] = []
    known = False
    for key, kind in (("boxes", "box"), ("points", "point"), ("polygons", "polygon")):
        listed = truth.get(key)
        if isinstance(listed, list):
            known = True
            found += _listed(listed, kind, truth.get("labels"), truth.get("images"))
    if isinstance(polygon := truth.get("polygon"), list):
        known = True
        found += _listed([polygon], "polygon", None, None)
    item = _item(truth, layout)
    return [*found, *item] if known or item else None


def _listed(listed: list[Any], kind: str, labels: Any, images: Any) -> Iterator[_Raw]:
    for number, one in enumerate(listed):
        label = labels[number] if isinstance(labels, list) and number < len(labels) else ""
        image = images[number] if isinstance(images, list) and number < len(images) else None
        if kind == "polygon":
            corners = one if isinstance(one, list) and all(_numbers(corner, 2) for corner in one) else []
            numbers = [x for corner in corners for x in corner]
        else:
            numbers = one if _numbers(one, 4 if kind == "box" else 2) else []
        if numbers:
            yield _Raw(kind, _floats(numbers), str(label), image if isinstance(image, int) else None)


def _item(item: dict[str, Any], layout: Layout) -> list[_Raw]:
    label = next((item[key] for key in _LABEL_KEYS if isinstance(item.get(key), str)), "")
    image = item.get("image")
    places = [item[key] for key in (*layout.keys, *_BOX_KEYS, *_POINT_KEYS) if key in item]
    return [
        raw._replace(label=label, image=image if isinstance(image, int) else None)
        for value in {str(value): value for value in places}.values()
        for raw in _bare(value)
    ]


def _bare(value: object) -> list[_Raw]:
    if _numbers(value, 4):
        return [_Raw("box", _floats(value))]
    return [_Raw("point", _floats(value))] if _numbers(value, 2) else []


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_number, value))


def _floats(numbers: Any) -> tuple[float, ...]:
    try:
        return tuple(map(float, numbers))
    except (OverflowError, ValueError):  # an integer, or its digits, beyond any float
        return (math.inf,) * len(numbers)


# -- answers -----------------------------------------------------------------------------------------------------------


def _items(text: str, layout: Layout) -> Iterator[_Raw]:
    keyed = _KEYED_POINT
    if layout.keys:
        names = "|".join(map(re.escape, (*layout.keys, *_POINT_KEYS)))
        keyed = re.compile(rf"""['"](?:{names})['"]\s*+:\s*+[\[(]{_N},{_N}[\])]""")
    for item in _ITEM.findall(text):
        four, two = _FOUR.search(item), keyed.search(item)
        if four or two:
            named, numbered = _LABEL.search(item), _IMAGE.search(item)
            label = next(filter(None, named.groups()), "") if named else ""
            image = int(numbered[1]) if numbered else None
            for kind, match in (("box", four), ("point", two)):
                if match:
                    yield _Raw(kind, _floats(match.groups()), label, image)


def _tagged(text: str) -> Iterator[_Raw]:
    name = ""
    for match in _TAGS.finditer(text):
        if match["name"] is not None:
            name = match["name"].strip()
            continue
        for numbers in _FOUR.findall(match["box"]):
            yield _Raw("box", _floats(numbers), name, order="xyxy")
    for *numbers, label in _LOC.findall(text):
        yield _Raw("box", _floats(numbers), label.strip(), scale=1024.0, order="yxyx")
    for tag in _MOLMO.findall(text):
        sides: dict[str, dict[str, str]] = {"x": {}, "y": {}}
        label = ""
        for axis, number, value, alt in _ATTRIBUTE.findall(tag):
            if axis:
                sides[axis][number] = value
            else:
                label = alt
        for number in sides["x"]:
            if number in sides["y"]:
                yield _Raw(
                    "point", _floats((sides["x"][number], sides["y"][number])), label, scale=100.0, order="xy"
                )
    for numbers in _CALL.findall(text):
        yield _Raw("point", _floats(numbers), order="xy")


# -- places ------------------------------------------------------------------------------------------------------------


def _place(
    found: Iterable[_Raw], frame: Frame, canvases: Sequence[Canvas], layout: Layout, image: int
) -> Marks:
    """From the frame to pixels of the stored picture, cut to its surroundings."""
    boxes, points, polygons = list[Box](), list[Outline](), list[Outline]()
    unplaced = more = 0
    for raw in found:
        at = image if raw.image is None else raw.image
        canvas = canvases[at] if 0 <= at < len(canvases) else None
        scale = raw.scale if raw.scale is not None else layout.scale
        times = None if canvas is None else _times(canvas, frame, scale)
        if canvas is None or times is None or not all(map(math.isfinite, raw.numbers)):
            unplaced += 1
            continue
        if len(boxes) + len(points) + len(polygons) >= MAX_MARKS:
            more += 1
            continue
        numbers = _ordered(raw, layout)
        xy = tuple(
            _cut(numbers[n] * times[0], numbers[n + 1] * times[1], canvas.size)
            for n in range(0, len(numbers), 2)
        )
        if raw.kind == "box":
            (a, b), (c, d) = xy
            boxes.append(Box(min(a, c), min(b, d), max(a, c), max(b, d), raw.label, at, raw.numbers))
        else:
            (points if raw.kind == "point" else polygons).append(Outline(xy, raw.label, at, raw.numbers))
    return Marks(tuple(boxes), tuple(points), tuple(polygons), unplaced, more)


def _ordered(raw: _Raw, layout: Layout) -> tuple[float, ...]:
    if raw.kind == "point":
        swapped = (raw.order or layout.point_order) == "yx"
        return raw.numbers[::-1] if swapped else raw.numbers
    if raw.kind == "polygon":
        return raw.numbers
    a, b, c, d = raw.numbers
    order = raw.order or layout.order
    if order == "yxyx":
        return b, a, d, c
    if order == "xywh":
        return a, b, a + c, b + d
    if order == "cxcywh":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return raw.numbers


def _times(canvas: Canvas, frame: Frame, scale: float | None) -> tuple[float, float] | None:
    """What x and y are multiplied by; None where the frame's size is not known."""
    width, height = canvas.size
    if scale is None and frame == "pixels_original":
        return 1.0, 1.0
    if scale is None and frame == "pixels_processed":
        if canvas.processed is None or min(canvas.processed) < 1:
            return None
        return width / canvas.processed[0], height / canvas.processed[1]
    whole = scale or (1.0 if frame == "unit" else 1000.0)
    return width / whole, height / whole


def _cut(x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
    return min(max(x, -size[0]), 2 * size[0]), min(max(y, -size[1]), 2 * size[1])
