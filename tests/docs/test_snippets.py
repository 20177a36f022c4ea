"""Every command and snippet of the documentation runs, or says in the page why it does not and is read all the same."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.core.registry import Registry
from triune.core.sample import Check

from . import commands
from .pages import PAGES, ROOT, Block, blocks


@pytest.fixture
def unregistered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plug-ins that a page registers are forgotten again; triune's own, imported on the way, stay."""
    register, added = Registry.register, []

    def recording(self: Registry[Any], name: str) -> Any:
        def add(item: Any) -> Any:
            if not item.__module__.startswith("triune."):
                added.append((self, name))
            return register(self, name)(item)

        return add

    monkeypatch.setattr(Registry, "register", recording)
    yield
    for registry, name in added:
        registry._items.pop(name, None)


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))])
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unregistered: None) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("benchmarks", "recipes"):  # commands are written for someone in a checkout
        (tmp_path / name).symlink_to(ROOT / name)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        try:
            try_block(block, tmp_path, names)
        except BaseException as error:
            error.add_note(f"in the block at {block}")
            raise


def try_block(block: Block, folder: Path, names: dict[str, Any]) -> None:
    """Runs a block, or reads it where its marks say so."""
    if "setup" in block.marks:
        exec(compile(block.marks["setup"], f"{block} (setup)", "exec", dont_inherit=True), names)
    if "tested by" in block.marks:
        test = ROOT / block.marks["tested by"]
        assert Path(block.page).name in test.read_text(), f"{test} does not name the page"
        return
    if "file" in block.marks:
        (folder / block.marks["file"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.marks["file"]).write_text(block.text, encoding="utf-8")
    LANGUAGES[block.language](block, folder, names)


def python(block: Block, folder: Path, names: dict[str, Any]) -> None:
    source = compile(block.text, str(block), "exec", dont_inherit=True)
    if not {"not run", "file"} & block.marks.keys():
        exec(source, names)


def shell(block: Block, folder: Path, names: dict[str, Any]) -> None:
    for words in commands.lines(block.text):
        commands.read(words)
        if "not run" not in block.marks:
            commands.run(words, folder, block.marks.get("small", "").split())


def recipe(block: Block, folder: Path, names: dict[str, Any]) -> None:
    """A recipe, or some keys of one."""
    values = yaml.safe_load(block.text)
    if not isinstance(values, dict) or not values.keys() <= {*Recipe.model_fields, "base"}:
        assert "file" in block.marks, "neither a recipe nor a part of one"
        return
    if "name" not in values:
        values = {"name": "part", "base": str(find_recipe("quickstart")), **values}
    file = folder / block.marks.get("file", "block.yaml")
    if "file" not in block.marks or "base" in values:
        file = file.with_name("block.yaml")
        file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    Recipe.load(file)


def json_lines(block: Block, folder: Path, names: dict[str, Any]) -> None:
    for line in [block.text] if block.language == "json" else block.text.splitlines():
        values = json.loads(line)
        for check in values.get("checks", ()):
            Check.model_validate(check)


def toml(block: Block, folder: Path, names: dict[str, Any]) -> None:
    tomllib.loads(block.text)


def output(block: Block, folder: Path, names: dict[str, Any]) -> None:
    """Figures, messages, tables of files: nothing to run."""


LANGUAGES = {
    "python": python, "bash": shell, "yaml": recipe, "json": json_lines, "jsonl": json_lines, "toml": toml,
    "csv": output, "text": output,
}  # fmt: skip


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_outside_the_site_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", (ROOT / page).read_text()):
        assert (ROOT / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES or "tested by" in block.marks, (
            f"{block}: a block in {block.language or 'no language'}; write one of {sorted(LANGUAGES)}"
        )
