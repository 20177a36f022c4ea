"""What docs/coming-from says a key is called here exists here; TRL's side is held to TRL where it is installed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import pytest

from triune.core.describe import leaves
from triune.data.adapters import ADAPTERS
from triune.verify.verifier import verifiers

from .pages import PAGES, ROOT

GUIDES = [page for page in PAGES if "coming-from" in page]
KEYS = {re.sub(r"\(\w+\)|\[\]", "", leaf.key) for leaf in leaves(plugins=True)}
SECTIONS = {key.rsplit(".", 1)[0] for key in KEYS if "." in key}


def rows(page: str) -> Iterator[list[str]]:
    section = (ROOT / page).read_text().split("## What is called what")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| ") and "---" not in line:
            yield [cell.strip() for cell in line.split("|")[1:-1]]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("page", GUIDES)
def test_our_side_of_the_table_exists(page: str) -> None:
    table = list(rows(page))
    assert len(table) > 20
    assert all(len(row) == 3 for row in table)
    for _, ours, _ in table[1:]:
        section = ""
        for said in spans(ours):
            key = re.sub(r"\[\]", "", said.split(":")[0])
            if key in KEYS | SECTIONS:
                section = key.rsplit(".", 1)[0]
            elif "." in key:
                pytest.fail(f"{page}: there is no key {key!r}")
            elif re.fullmatch(r"[a-z_]+", key) and section:
                assert f"{section}.{key}" in KEYS or key in _names(), (
                    f"{page}: {said!r} is nothing in {section}"
                )


def _names() -> set[str]:
    """Options and names of plug-ins that a table may name without their section."""
    options = {key.rsplit(".", 1)[-1] for key in KEYS}
    return options | set(verifiers) | set(ADAPTERS) | {"adapter", "source", "task"}


def test_the_other_side_is_what_trl_has() -> None:
    trl = pytest.importorskip("trl")
    fields = {field.name: field for field in dataclasses.fields(trl.GRPOConfig)}
    others = {"model", "train_dataset", "eval_dataset", "reward_funcs", "peft_config", "vllm_*"}
    for theirs, _, _ in list(rows("docs/coming-from/trl.md"))[1:]:
        name = ""
        for said in spans(theirs):
            name = name if said.startswith('"') else re.split(r"[=(]", said)[0]
            known = name in fields or name in others or name == "requires_grad_"
            assert known, f"GRPOConfig has no {name!r}"
            for value in re.findall(r'"(\w+)"', said) if name in fields else ():
                assert value in fields[name].metadata["help"], f"{name} has no value {value!r}"
