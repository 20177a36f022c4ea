"""Small data for the recipes of `recipes/start`: ten photographs with a CSV of boxes, and questions about drawn pictures.

    python -m triune.data.start [FOLDER]

The photographs are crops of the two that scikit-learn ships (a pagoda, two dahlias; Creative Commons licences), with
boxes drawn by hand. The questions are embedded tasks, written out as anyone's pictures and tables are.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import tyro
from PIL import Image

from triune.core.errors import StorageError, TriuneError
from triune.data.embedded import SOURCES

FOLDER = Path("start-data")
Box = tuple[int, int, int, int]

THINGS: Mapping[str, Sequence[tuple[str, Box]]] = {
    "china.jpg": (("tower", (63, 30, 372, 420)),),
    "flower.jpg": (("flower", (169, 84, 446, 359)), ("flower", (288, 375, 468, 427))),
}
"""What is on scikit-learn's two photographs of 640 x 427 pixels, and where."""

CROPS: Sequence[tuple[str, Box]] = (
    ("flower.jpg", (0, 0, 640, 427)),
    ("china.jpg", (0, 0, 640, 427)),
    ("flower.jpg", (120, 40, 500, 420)),
    ("china.jpg", (20, 0, 420, 427)),
    ("flower.jpg", (0, 60, 480, 400)),
    ("china.jpg", (0, 10, 640, 425)),
    ("flower.jpg", (150, 20, 640, 365)),
    ("china.jpg", (40, 15, 540, 427)),
    ("flower.jpg", (90, 70, 470, 427)),
    ("china.jpg", (10, 20, 400, 427)),
)
KEPT = 0.25
"""A crop that shows less than this share of a thing does not count as showing it."""


def write_photos(folder: Path) -> Path:
    """Writes `01.jpg` to `10.jpg` and `boxes.csv` (image,x1,y1,x2,y2,label; pixels); returns the CSV."""
    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise TriuneError("the photographs come with scikit-learn: pip install 'triune[embedded]'") from error
    lines: list[Sequence[object]] = []
    for number, (photo, crop) in enumerate(CROPS, start=1):
        name = f"{number:02}.jpg"
        _save(Image.fromarray(load_sample_image(photo)).crop(crop), folder / name)
        lines += [(name, *box, label) for label, thing in THINGS[photo] if (box := _inside(thing, crop))]
    return _table(folder / "boxes.csv", ("image", "x1", "y1", "x2", "y2", "label"), lines)


def write_questions(folder: Path, source: str, count: int = 64, seed: int = 0) -> Path:
    """Writes `count` pictures of an embedded source and `questions.csv` (image,question,answer); returns the CSV."""
    lines = []
    for index in range(count):
        sample = SOURCES[source].draw(index, seed, "train")
        name = f"{index:03}.png"
        _save(sample.media[0].image(), folder / name)
        lines.append((name, sample.messages[0].text, sample.truth))
    return _table(folder / "questions.csv", ("image", "question", "answer"), lines)


def write(folder: Path = FOLDER) -> list[Path]:
    """Everything that the recipes of `recipes/start` read; returns the three tables."""
    return [
        write_photos(folder / "photos"),
        write_questions(folder / "sums", "math/digit_sum"),
        write_questions(folder / "thermometers", "science/thermometer"),
    ]


def _inside(box: Box, crop: Box) -> Box | None:
    """The part of a box that a crop shows, in the crop's pixels; None for too little of it."""
    x1, y1, x2, y2 = max(box[0], crop[0]), max(box[1], crop[1]), min(box[2], crop[2]), min(box[3], crop[3])
    shown = max(0, x2 - x1) * max(0, y2 - y1) / ((box[2] - box[0]) * (box[3] - box[1]))
    return (x1 - crop[0], y1 - crop[1], x2 - crop[0], y2 - crop[1]) if shown >= KEPT else None


def _save(picture: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def _table(path: Path, header: Sequence[str], lines: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
    return path


def main(folder: tyro.conf.Positional[Path] = FOLDER) -> None:
    """Writes the data of the start recipes.

    Args:
        folder: where it goes.
    """
    for path in write(folder):
        print(path)


if __name__ == "__main__":
    tyro.cli(main)
