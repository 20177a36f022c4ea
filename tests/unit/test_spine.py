"""The spine can be read in an hour: the files of docs/design.md together, at most 2,000 lines."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_spine_stays_short():
    section = (ROOT / "docs" / "design.md").read_text().split("## The spine")[1].split("\n## ")[0]
    files = [ROOT / "src" / "triune" / name for name in re.findall(r"`([\w/]+\.py)`", section)]
    assert len(files) == len(set(files)) == 14
    lines = {file.name: len(file.read_text().splitlines()) for file in files}
    assert sum(lines.values()) <= 2000, lines
