"""Drawn pictures, files of questions, and rows of predictions made from scripted answers by the real judge."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from triune.core.sample import Frame, Sample
from triune.core.verdict import Outcome, Seen
from triune.evaluation.predictions import END, Prediction, record
from triune.evaluation.suites import SUITES, Suite
from triune.evaluation.suites.external import External
from triune.verify.judge import Judge


def picture(path: Path, size: tuple[int, int] = (200, 100), colour: str = "green") -> str:
    """Draws a picture; returns its name relative to the folder above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path.name


def table(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """A JSONL or CSV file; in a CSV, lists are JSON text."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(
            {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows
        )
    return str(path)


def suite(kind: str, **options: Any) -> Suite:
    return SUITES[kind].model_validate(options)


def outcome(sample: Sample, text: str, frame: Frame = "pixels_processed", scale: float = 1.0) -> Outcome:
    """An answer by a policy that saw every picture `scale` times as large."""
    seen = tuple(
        Seen(sha256=m.sha256, original=m.size, processed=(round(m.size[0] * scale), round(m.size[1] * scale)))
        for m in sample.media
    )
    return Outcome(id=f"{sample.id}/0", text=text, media=seen, frame=frame)


def answered(
    chosen: Suite, texts: Sequence[str], frame: Frame = "pixels_processed", scale: float = 1.0
) -> list[Prediction]:
    """The suite's rows when the policy answers its samples with these texts, in order."""
    samples = chosen.load(frame).samples
    assert len(samples) == len(texts), [sample.id for sample in samples]
    outcomes = [outcome(s, text, frame, scale) for s, text in zip(samples, texts, strict=True)]
    if isinstance(chosen, External):
        return [record(s, o, None, chosen.tag()) for s, o in zip(samples, outcomes, strict=True)]
    with Judge(workers=0) as judge:
        judge.check_many(samples)
        verdicts = judge.judge_many([(s, (o,)) for s, o in zip(samples, outcomes, strict=True)], END)
    return [record(s, o, v[0], chosen.tag()) for s, o, v in zip(samples, outcomes, verdicts, strict=True)]


def tagged(answer: object) -> str:
    return (
        f"<think>I look.</think><answer>{answer if isinstance(answer, str) else json.dumps(answer)}</answer>"
    )


def items(*pairs: tuple[Sequence[float], str]) -> str:
    """A detection answer."""
    return tagged([{"bbox_2d": list(box), "label": label} for box, label in pairs])


def coco(
    folder: Path,
    pictures: Sequence[Sequence[tuple[Sequence[float], str]]],
    names: Sequence[str],
    **extra: Any,
) -> str:
    """A COCO annotation file of drawn pictures (200 x 100); boxes as [x1, y1, x2, y2]. `extra` per-picture lists of fields."""
    images, annotations = [], []
    for number, boxes in enumerate(pictures):
        name = picture(folder / f"{number}.png", colour=f"rgb({number * 20}, 90, 30)")
        images.append(
            {"id": number + 10, "file_name": name, **{key: values[number] for key, values in extra.items()}}
        )
        for (x1, y1, x2, y2), label in boxes:
            annotations.append(
                {"id": len(annotations), "image_id": number + 10, "category_id": names.index(label) + 5,
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            )  # fmt: skip
    held = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number + 5, "name": name} for number, name in enumerate(names)],
    }
    (folder / "instances.json").write_text(json.dumps(held))
    return str(folder / "instances.json")
