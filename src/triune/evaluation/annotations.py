"""Reading COCO annotation files (`images`, `annotations`, `categories`), which detection data sets are published in."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triune.core.errors import DataError
from triune.data.rows import Row
from triune.verify.extract import normalise


@dataclass(frozen=True)
class Annotations:
    """`images` as the file has them, `labels` by category id, annotations by picture. Boxes are [x, y, width, height]."""

    images: list[dict[str, Any]]
    labels: Mapping[int, str]
    by_image: Mapping[Any, list[dict[str, Any]]]

    @classmethod
    def read(cls, file: str) -> Annotations:
        """Raises DataError for what is not such a file, naming the entry."""
        try:
            held: Any = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{file} is not a COCO annotation file: {error}") from error
        keys = ("images", "annotations", "categories")
        if not isinstance(held, dict) or not all(_entries(held.get(key)) for key in keys):
            raise DataError(f"{file} is not a COCO annotation file: it needs the lists {', '.join(keys)}")
        labels = _labels(file, held["categories"])
        known = {one.get("id") for one in held["images"]}
        by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for number, one in enumerate(held["annotations"]):
            where, box = f"{file}, annotations[{number}]", one.get("bbox")
            if one.get("image_id") not in known:
                raise DataError(f"{where}: image_id {one.get('image_id')!r} is no image of the file")
            if one.get("category_id") not in labels:
                raise DataError(f"{where}: category_id {one.get('category_id')!r} is no category of the file")
            if not isinstance(box, list) or len(box) != 4 or not all(type(x) in (int, float) for x in box):
                raise DataError(f"{where}: bbox must be [x, y, width, height], got {box!r}"[:300])
            by_image[one["image_id"]].append(one)
        return cls(held["images"], labels, by_image)

    def of(self, row: Row) -> list[dict[str, Any]]:
        """The annotations of a row of `images`."""
        return self.by_image.get(row.values.get("id"), [])


def _entries(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _labels(file: str, categories: list[dict[str, Any]]) -> dict[int, str]:
    labels: dict[int, str] = {}
    for number, one in enumerate(categories):
        key, name = one.get("id"), one.get("name")
        if not isinstance(key, int) or not isinstance(name, str) or not name.strip():
            raise DataError(f"{file}, categories[{number}]: needs an integer id and a name")
        labels[key] = name
    names = Counter(normalise(name, lower=True) for name in labels.values())
    repeated = sorted(name for name, times in names.items() if times > 1)
    if repeated or len(labels) != len(categories):
        raise DataError(
            f"{file}: two categories share an id or a name ({repeated}); a label must mean one category"
        )
    return labels
