"""Small files of rows with pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from triune.core.sample import Check, Media, Message, Picture, Sample, Text


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (20, 10), "blue").save(path)
    return path


@pytest.fixture
def rows_file(tmp_path: Path, picture: Path) -> Callable[..., Path]:
    """Writes `count` native rows; `change(i, row)` may damage row i."""

    def write(
        count: int, name: str = "toy.jsonl", change: Callable[[int, dict[str, Any]], None] | None = None
    ) -> Path:
        lines = []
        for i in range(count):
            row: dict[str, Any] = {
                "id": f"{name}/{i}",
                "source": "toy",
                "task": "counting",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "media": 0},
                            {"type": "text", "text": f"How many? {i}"},
                        ],
                    }
                ],
                "media": ["picture.png"],
                "truth": i,
                "checks": [{"verifier": "count"}],
            }
            if change:
                change(i, row)
            lines.append(json.dumps(row))
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


class Numbers:
    """A source of `count` (None: endless) samples whose id is `name/index`."""

    def __init__(self, name: str, count: int | None) -> None:
        self.name, self.task, self.num_samples = name, "counting", count

    def sample(self, index: int) -> Sample:
        assert self.num_samples is None or index < self.num_samples
        media = Media.from_image(Image.new("RGB", (4, 4)))
        content = (Picture(media=0), Text(text="How many?"))
        return Sample(
            id=f"{self.name}/{index}",
            source=self.name,
            task=self.task,
            messages=(Message(role="user", content=content),),
            media=(media,),
            truth=index,
            checks=(Check(verifier="count"),),
        )

    def find(self, id: str) -> Sample | None:
        name, _, index = id.partition("/")
        return self.sample(int(index)) if name == self.name else None


@pytest.fixture
def numbers() -> type[Numbers]:
    return Numbers
