"""Files as V-Triune's released data set (Orsta-Data-47k) has them, over drawn pictures: for tests, recipes and docs.

    python -m triune.testing.orsta FOLDER

The Arrow schema is the released one (struct leaves that are null, `float32` weights, pictures as {bytes, path}), and so
are the rows' habits: null ids, a full `verifier_parm` in every row, `format_ratio` 0 outside detection and grounding,
baked detection prompts. Known file names of the release are `train_math_mmmath_3539`, `train_chart_chartqapro_498`,
`train_puzzle_puzzlevqa_2648_x2`, `train_detection_v3det_4000` and the three of `TEST`, known abilities `math` and
`cv_detection`; the others follow their pattern.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from PIL import Image, ImageDraw, ImageFont

from triune.data.files import atomic


class File(NamedTuple):
    """One file of the data set: its name without number, the rows' `data_source` and `ability`."""

    stem: str
    data_source: str
    ability: str
    suffix: str = ""

    @property
    def task(self) -> str:
        return self.stem.split("_")[1]


TRAIN = (
    File("train_math_mmmath", "mm_math", "math"),
    File("train_math_geometry3k", "geometry3k", "math"),
    File("train_math_mmk12", "mmk12", "math"),
    File("train_puzzle_puzzlevqa", "puzzlevqa", "puzzle", "_x2"),
    File("train_puzzle_visualpuzzles", "visualpuzzles", "puzzle"),
    File("train_science_scienceqa", "scienceqa", "science"),
    File("train_science_scivqa", "scivqa", "science"),
    File("train_science_virl39k", "virl39k_science", "science"),
    File("train_chart_chartqapro", "chartqapro", "chart"),
    File("train_chart_chartx", "chartx", "chart"),
    File("train_chart_tablevqa", "tablevqa", "chart"),
    File("train_chart_virl39k", "virl39k_chart", "chart"),
    File("train_detection_v3det", "v3det_train", "cv_detection"),
    File("train_detection_object365", "object365_train", "cv_detection"),
    File("train_grounding_d3", "d3", "cv_grounding"),
    File("train_counting_clevr", "clevr", "cv_counting"),
    File("train_ocr_llavaov", "llava_ov_ocr", "ocr"),
    File("train_ocr_estvqa", "estvqa", "ocr"),
)
"""The eighteen source sets of the paper (section 5.1.1)."""

TEST = (
    File("test_math_megabench", "megabench_math", "math"),
    File("test_chart_megabench", "megabench_chart", "chart"),
    File("test_detection_coco_test_multi", "coco_test_multi", "cv_detection"),
)

PARTS = ("iou_max_label_first", "iou_max_iou_first", "iou_completeness", "map", "map50", "map75")
_TEXT, _WEIGHT = pa.string(), pa.float32()
SCHEMA = pa.schema(
    [
        ("data_source", _TEXT),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", _TEXT)]))),
        ("prompt", pa.list_(pa.struct([("content", _TEXT), ("role", _TEXT)]))),
        ("ability", _TEXT),
        (
            "reward_model",
            pa.struct(
                [
                    ("answer", _TEXT),
                    ("ground_truth", _TEXT),
                    ("accuracy_ratio", _WEIGHT),
                    ("format_ratio", _WEIGHT),
                    ("verifier", _TEXT),
                    (
                        "verifier_parm",
                        pa.struct(
                            [
                                ("det_verifier_normalized", pa.bool_()),
                                ("det_reward_ratio", pa.struct([(part, _WEIGHT) for part in PARTS])),
                            ]
                        ),
                    ),
                ]
            ),
        ),
        ("extra_info", pa.struct([("id", _TEXT), ("image_path", _TEXT)])),
    ]
)
"""The released schema; `_features` says the same to Hugging Face's reader."""

COLOURS = {"red": "#d62828", "green": "#2a9d3f", "blue": "#3057d5", "orange": "#f08c00", "purple": "#8338ec"}
SHAPES = ("circle", "square", "triangle")
WORDS = (
    "EXIT",
    "Open daily",
    "Platform 9",
    "No parking",
    "Fresh bread",
    "Room 214",
    "Mind the gap",
    "Library",
)
_JSON_EXAMPLE = "[{'bbox_2d': [x1,y1,x2,y2],'label': label_name}]"
_DETECT = (
    "List each object of these classes with its box:\n{classes}\n\nThink first, between <think> and </think>, then give "
    "the detections between <answer> and </answer>.\nFor example:\n<think>\nYour thoughts.\n</think>\n<answer>\n"
    + _JSON_EXAMPLE
    + "\n</answer>",
    "Which of the following can be seen, and where?\n{classes}\n\nAnswer as\n<answer>\n"
    + _JSON_EXAMPLE
    + "\n</answer>",
)


class Task(NamedTuple):
    """What one drawn picture asks: question, answer; boxes per mille where the answer is a list of them."""

    picture: Image.Image
    question: str
    answer: str


Draw = Callable[[np.random.Generator], Task]


def write_orsta(
    folder: Path, rows: int = 10, seed: int = 0, files: Sequence[File] = (*TRAIN, *TEST)
) -> list[Path]:
    """Writes `FOLDER/train/train_*_{rows}.parquet` and `FOLDER/test/test_*_{rows}.parquet`, returns their paths."""
    paths = []
    for number, file in enumerate(files):
        rng = np.random.default_rng([seed, number])
        drawn = [_row(file, DRAW[file.task](rng), index) for index in range(rows)]
        split = file.stem.split("_")[0]
        path = folder / split / f"{file.stem}_{rows}{file.suffix}.parquet"
        with atomic(path) as temporary:
            pq.write_table(pa.Table.from_pylist(drawn, schema=SCHEMA.with_metadata(_features())), temporary)
        paths.append(path)
    return paths


def _row(file: File, task: Task, index: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    task.picture.save(buffer, format="PNG")
    name = f"{file.data_source}_{index}.png"
    boxes = file.task in ("detection", "grounding")
    formatted = f"<answer>\n{task.answer}\n</answer>" if boxes else f"\\boxed{{{task.answer}}}"
    ratio: Mapping[str, float | None] = dict.fromkeys(PARTS)
    if boxes:
        ratio = {**dict.fromkeys(PARTS, 0.0), "iou_max_label_first": 1.0, "iou_completeness": 0.3}
    return {
        "data_source": file.data_source,
        "images": [{"bytes": buffer.getvalue(), "path": name}],
        "prompt": [{"content": ("<image>\n" if boxes else "<image>") + task.question, "role": "user"}],
        "ability": file.ability,
        "reward_model": {
            "answer": task.answer,
            "ground_truth": formatted,
            "accuracy_ratio": 1.0,
            "format_ratio": 0.1 if boxes else 0.0,
            "verifier": "detection" if boxes else "mathverify",
            "verifier_parm": {"det_verifier_normalized": boxes or None, "det_reward_ratio": ratio},
        },
        "extra_info": {"id": None, "image_path": f"images/{name}"},
    }


def _features() -> dict[str, str]:
    """The metadata by which Hugging Face's `datasets` knows that a struct of bytes and path is a picture."""

    def feature(kind: pa.DataType) -> Any:
        if pa.types.is_struct(kind):
            fields = [kind.field(i) for i in range(kind.num_fields)]
            if {field.name for field in fields} == {"bytes", "path"}:
                return {"_type": "Image"}
            return {field.name: feature(field.type) for field in fields}
        if pa.types.is_list(kind):
            inner = feature(kind.value_type)
            return {"feature": inner, "_type": "Sequence"} if "_type" in inner else [inner]
        dtype = {"float": "float32"}.get(str(kind), str(kind))
        return {"dtype": dtype, "_type": "Value"}

    return {"huggingface": json.dumps({"info": {"features": {f.name: feature(f.type) for f in SCHEMA}}})}


# -- what is drawn -----------------------------------------------------------------------------------------------------


def _canvas(rng: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Paper of a size of its own, between 96 and 160 pixels a side."""
    width, height = (int(side) for side in rng.integers(12, 21, 2) * 8)
    tone = tuple(int(v) for v in rng.integers(225, 256, 3))
    picture = Image.new("RGB", (width, height), tone)
    return picture, ImageDraw.Draw(picture)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _math(rng: np.random.Generator) -> Task:
    picture, pen = _canvas(rng)
    a, b = (int(v) for v in rng.integers(2, 10, 2))
    right, bottom = picture.width - 30, picture.height - 24
    if rng.random() < 0.5:
        pen.rectangle((14, 14, right, bottom), outline="black", width=2)
        question, answer = "The sides are marked. What is the area of the rectangle?", str(a * b)
    else:
        pen.polygon([(14, 14), (14, bottom), (right, bottom)], outline="black", width=2)
        question = "The legs of the right triangle are marked. What is the length of the hypotenuse?"
        square = a * a + b * b
        root = round(square**0.5)
        answer = str(root) if root * root == square else f"\\sqrt{{{square}}}"
    pen.text((picture.width / 2 - 8, bottom + 4), str(a), fill="black", font=_font(14))
    pen.text((right + 8, picture.height / 2 - 8), str(b), fill="black", font=_font(14))
    return Task(picture, question, answer)


def _puzzle(rng: np.random.Generator) -> Task:
    picture, pen = _canvas(rng)
    first, step = int(rng.integers(1, 9)), int(rng.integers(2, 7))
    terms = [first + step * i for i in range(4)]
    hidden = int(rng.integers(1, 4))
    for i, term in enumerate(terms):
        text = "?" if i == hidden else str(term)
        pen.text(
            (6 + i * (picture.width - 12) / 4, picture.height / 2 - 8), text, fill="black", font=_font(15)
        )
    return Task(picture, "Which number belongs in the place of the question mark?", str(terms[hidden]))


def _science(rng: np.random.Generator) -> Task:
    picture, pen = _canvas(rng)
    degrees = int(rng.integers(1, 10)) * 10
    top, bottom = 12, picture.height - 12
    level = bottom - (bottom - top) * degrees / 100
    pen.rectangle((30, top, 42, bottom), outline="black", width=1)
    pen.rectangle((31, level, 41, bottom), fill="#d62828")
    for mark in (0, 50, 100):
        y = bottom - (bottom - top) * mark / 100
        pen.text((48, y - 7), str(mark), fill="black", font=_font(11))
    return Task(picture, "How many degrees does the thermometer show?", str(degrees))


def _chart(rng: np.random.Generator) -> Task:
    picture, pen = _canvas(rng)
    names, values = list(COLOURS)[:4], [int(v) for v in rng.integers(1, 10, 4)]
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        left, width = 8 + i * (picture.width - 16) / 4, (picture.width - 16) / 5
        top = picture.height - 8 - (picture.height - 30) * value / 10
        pen.rectangle((left, top, left + width, picture.height - 8), fill=COLOURS[name])
        pen.text((left + 3, top - 14), str(value), fill="black", font=_font(11))
    if rng.random() < 0.5:
        return Task(picture, "What do all bars add up to?", str(sum(values)))
    asked = int(rng.integers(4))
    return Task(picture, f"Which value does the {names[asked]} bar have?", str(values[asked]))


def _scatter(rng: np.random.Generator, count: int) -> tuple[Image.Image, list[tuple[str, str, list[int]]]]:
    """Coloured shapes in the cells of a grid: (colour, shape, box in pixels)."""
    picture, pen = _canvas(rng)
    cell_w, cell_h = picture.width // 3, picture.height // 3
    things = []
    for cell in rng.permutation(9)[:count]:
        side = int(rng.integers(min(cell_w, cell_h) // 2, min(cell_w, cell_h) - 3))
        x = int(cell % 3) * cell_w + int(rng.integers(0, cell_w - side))
        y = int(cell // 3) * cell_h + int(rng.integers(0, cell_h - side))
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        box = [x, y, x + side, y + side]
        inside = (x, y, x + side - 1, y + side - 1)
        if shape == "circle":
            pen.ellipse(inside, fill=COLOURS[colour])
        elif shape == "square":
            pen.rectangle(inside, fill=COLOURS[colour])
        else:
            pen.polygon(
                [(x + side / 2, y), (x + side - 1, y + side - 1), (x, y + side - 1)], fill=COLOURS[colour]
            )
        things.append((colour, shape, box))
    return picture, things


def _per_mille(picture: Image.Image, box: Sequence[int]) -> list[int]:
    sides = (picture.width, picture.height) * 2
    return [round(1000 * value / side) for value, side in zip(box, sides, strict=True)]


def _detection(rng: np.random.Generator) -> Task:
    picture, things = _scatter(rng, int(rng.integers(2, 6)))
    classes = sorted({shape for _, shape, _ in things})[:2]
    found = [
        {"bbox_2d": _per_mille(picture, box), "label": shape} for _, shape, box in things if shape in classes
    ]
    listed = "\n".join(f"- {name}" for name in classes)
    return Task(picture, str(rng.choice(_DETECT)).replace("{classes}", listed), str(found))


def _grounding(rng: np.random.Generator) -> Task:
    picture, things = _scatter(rng, int(rng.integers(2, 5)))
    colour, shape, _ = things[int(rng.integers(len(things)))]
    said = f"{colour} {shape}"
    boxes = [_per_mille(picture, b) for c, s, b in things if (c, s) == (colour, shape)]
    found = [{"bbox_2d": box, "label": said} for box in boxes]
    question = f"Where is this?\n- {said}\n\nAnswer as\n<answer>\n{_JSON_EXAMPLE}\n</answer>"
    return Task(picture, question, str(found))


def _counting(rng: np.random.Generator) -> Task:
    picture, things = _scatter(rng, int(rng.integers(3, 9)))
    colour = things[0][0]
    count = sum(thing[0] == colour for thing in things)
    return Task(picture, f"How many {colour} things are there?", str(count))


def _ocr(rng: np.random.Generator) -> Task:
    picture, pen = _canvas(rng)
    text = str(rng.choice(WORDS))
    place = (8, int(rng.integers(10, picture.height - 30)))
    pen.text(place, text, fill=str(rng.choice(list(COLOURS.values()))), font=_font(14))
    return Task(picture, "What does the sign say?", text)


DRAW: Mapping[str, Draw] = {
    "math": _math, "puzzle": _puzzle, "science": _science, "chart": _chart,
    "detection": _detection, "grounding": _grounding, "counting": _counting, "ocr": _ocr,
}  # fmt: skip


def main(folder: tyro.conf.Positional[Path], rows: int = 10, seed: int = 0) -> None:
    """Writes one file for each of the paper's eighteen source sets and three of its online test.

    Args:
        folder: where `train/` and `test/` go.
        rows: rows per file.
        seed: of the drawn pictures.
    """
    for path in write_orsta(folder, rows, seed):
        print(path)


if __name__ == "__main__":
    tyro.cli(main)
