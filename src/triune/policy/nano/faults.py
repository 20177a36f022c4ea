"""The annotator's faults that nano's warm start plants, in one table, and nothing else.

A cleanly taught model leaves RL nothing to repair: its errors are errors of perception, not of choice. Real labels
are sloppy, so the last part of the warm start shows demonstrations of which a declared share carries one of these
faults. The right answer stays likely, the faulty one becomes the most likely; rewards then tell them apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

import numpy as np

from triune.data.embedded.canvas import SIZE, Ask, boxed, boxes_text

FAULT_RATE = 0.55
"""Share of the demonstrations that carry a fault."""
FORMAT_RATE = 0.1
"""Share of the faults that are a slip of the format instead of the value."""

Fault = Callable[[str, Ask, np.random.Generator], str]


def _one_off(value: str, ask: Ask, rng: np.random.Generator) -> str:
    return str(int(value) + 1)


def _ten_off(value: str, ask: Ask, rng: np.random.Generator) -> str:
    return str(int(value) + 5 if int(value) <= 95 else int(value) - 5)


def _digit_left_out(value: str, ask: Ask, rng: np.random.Generator) -> str:
    return value[:-1]


def _letter_left_out(value: str, ask: Ask, rng: np.random.Generator) -> str:
    return value[:1]


def _sides_swapped(value: str, ask: Ask, rng: np.random.Generator) -> str:
    return ask.options[(ask.options.index(value) + 1) % len(ask.options)]


VALUE_FAULTS: Mapping[str, tuple[str, Fault]] = {
    "number": ("counts and results one too high", _one_off),
    "scale": ("readings one mark of five off", _ten_off),
    "digits": ("the last digit left out", _digit_left_out),
    "letters": ("all letters but the first left out", _letter_left_out),
    "option": ("sides, cells and colours swapped for the next option", _sides_swapped),
}
BOX_FAULT = "boxes 3 to 5 px too large on every side"
FORMAT_FAULT = "a closing brace or tag left out"


def faulty(ask: Ask, rng: np.random.Generator) -> str:
    """The answer to `ask` with one fault of its form."""
    if rng.random() < FORMAT_RATE:
        return ask.answer[: -len("</answer>")] if ask.answer.endswith("</answer>") else ask.answer[:-1]
    if ask.form == "boxes":
        items = json.loads(re.sub(r"</?answer>", "", ask.answer))
        grow = rng.integers(3, 6, (len(items), 4)) * (-1, -1, 1, 1)
        boxes = [
            tuple(int(v) for v in np.clip(np.add(item["bbox_2d"], by), 0, SIZE))
            for item, by in zip(items, grow, strict=True)
        ]
        labels = [item["label"] for item in items if "label" in item]
        return boxes_text(boxes, labels or None)  # type: ignore[arg-type]
    match = re.search(r"\\boxed\{([^}]*)\}", ask.answer)
    assert match, ask.answer
    wrong = VALUE_FAULTS[ask.form][1](match.group(1), ask, rng)
    return ask.answer[: match.start()] + boxed(wrong) + ask.answer[match.end() :]
