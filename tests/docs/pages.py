"""The code blocks of the documentation, and what a comment before one says about running it.

Every block is run unless a comment in the page, invisible to a reader, says otherwise:

    <!-- small: a.b=c ... -->       run with these recipe keys added to every `triune train`; `nano`, `tiny`: see commands.SETS
    <!-- file: NAME -->             is the content of a file, for the blocks that follow
    <!-- not run: WHY -->           only read: recipes, keys and options must exist
    <!-- tested by: FILE -->        another test runs it; the file must name the page
    <!-- setup: PYTHON -->          run before the next block, in the page's names and folder
    <!-- provoked by: NAME -->      is an error's message; see test_faq.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    file.relative_to(ROOT).as_posix()
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if "reference" not in file.parts
)
MARK = re.compile(r"<!--\s*([a-z ]+?):\s*(.*?)\s*-->", re.DOTALL)
MARKS = frozenset({"small", "file", "not run", "tested by", "setup", "provoked by"})


@dataclass(frozen=True)
class Block:
    """One code block: where it stands, its language ('' if it names none) and the marks before it."""

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order. Directives of the site, such as its navigation, are none."""
    marks: dict[str, str] = {}
    for token in MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type == "html_block":
            marks |= dict(MARK.findall(token.content))
            assert marks.keys() <= MARKS, (
                f"{page}:{(token.map or [0])[0] + 1}: unknown mark in {sorted(marks)}"
            )
        elif token.type in ("fence", "code_block"):
            language = token.info.split(" ")[0] if token.type == "fence" else ""
            if not language.startswith("{"):
                yield Block(page, (token.map or [0])[0] + 1, language, token.content, marks)
            marks = {}
        elif token.type == "inline":
            assert not marks, f"{page}: a mark {sorted(marks)} must stand right before its block"
