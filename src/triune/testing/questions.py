"""A drawn benchmark in the formats that people have: what `triune eval` is tried on, in tests and in the documentation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from triune.core.sample import Sample
from triune.data.embedded import SOURCES

SEED = 11


def draw_benchmark(folder: Path, rows: int = 6) -> None:
    """Writes pictures and `counting.csv`, `words.jsonl`, `cells.jsonl`, `phrases.jsonl`, `instances.json` (COCO), `hard.json`
    (OVDEval's fields) and `rows.jsonl` (samples as they are), each with so many questions."""
    folder.mkdir(parents=True, exist_ok=True)
    counting = [
        {"image": _picture(folder, s), "question": s.messages[0].text, "answer": s.truth}
        for s in _drawn("counting/shapes", rows)
    ]
    with (folder / "counting.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, counting[0])
        writer.writeheader()
        writer.writerows(counting)
    _lines(
        folder / "words.jsonl",
        [
            {"image": _picture(folder, s), "question": s.messages[0].text, "answer": s.truth}
            for s in _drawn("ocr/word", rows)
        ],
    )
    _lines(
        folder / "cells.jsonl",
        [
            {
                "image": _picture(folder, s),
                "question": s.messages[0].text,
                "options": ["A", "B", "C", "D"],
                "answer": s.truth,
            }
            for s in _drawn("puzzle/odd_one_out", rows)
        ],
    )
    _lines(
        folder / "phrases.jsonl",
        [
            {
                "image": _picture(folder, s),
                "phrase": s.messages[0].text.removeprefix("Box ").rstrip("."),
                "box": s.truth,
            }
            for s in _drawn("grounding/shape", rows)
        ],
    )
    boxes = _drawn("detection/shapes", rows)
    _coco(folder, "instances.json", boxes)
    _coco(folder, "hard.json", boxes, hard=True)
    (folder / "rows.jsonl").write_text(
        "".join(s.model_dump_json() + "\n" for s in _drawn("counting/digits", rows)), encoding="utf-8"
    )


def _drawn(source: str, count: int) -> list[Sample]:
    return [SOURCES[source].draw(index, SEED, "heldout") for index in range(count)]


def _picture(folder: Path, sample: Sample) -> str:
    name = sample.id.replace("/", "-") + ".png"
    sample.media[0].image().save(folder / name)
    return name


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _coco(folder: Path, name: str, samples: list[Sample], hard: bool = False) -> None:
    labels = sorted({label for sample in samples for label in _truth(sample)["labels"]})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(samples):
        image: dict[str, Any] = {
            "id": number,
            "file_name": _picture(folder, sample),
            "width": 64,
            "height": 64,
        }
        own = sorted(set(_truth(sample)["labels"]))
        if hard:
            image |= {"text": own, "neg_text": [label for label in labels if label not in own][:1]}
        images.append(image)
        for (x1, y1, x2, y2), label in zip(_truth(sample)["boxes"], _truth(sample)["labels"], strict=True):
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": labels.index(label) + 1}
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({**one, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": number, "name": label} for number, label in enumerate(labels, start=1)]
    held = {"images": images, "annotations": annotations, "categories": categories}
    (folder / name).write_text(json.dumps(held), encoding="utf-8")


def _truth(sample: Sample) -> Any:
    return sample.truth
