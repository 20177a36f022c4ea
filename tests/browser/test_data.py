"""The data view: what a source was fed, how hard it is, what was left out, and its pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from triune.monitor.index import Query
from triune.monitor.metric import scalar
from triune.monitor.store import Store

from .conftest import Dash, serving, shown


def test_counts_and_pass_rates_are_those_of_the_rollouts(page: Page, dash: Dash) -> None:
    with Store(dash.root / "first", readonly=True) as store:
        rows = store.find(Query(limit=10_000)).rows
    assert len(rows) == 4 * 8 * 4
    groups: dict[str, dict[tuple[int, str], list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.source][row.step, row.group].append(bool(row.correct))
    page.goto(dash.url("data", run="first"))
    shown(page, "data")
    for source, found in groups.items():
        line = page.get_by_role("row", name=f"{source} ")
        cells = line.get_by_role("cell").all_inner_texts()
        assert cells[2] == str(sum(map(len, found.values())))
        assert cells[4] == str(len(found))
        never = sum(not any(right) for right in found.values()) / len(found)
        assert cells[7].startswith(f"{100 * never:.0f}"), (source, cells)
        bars = page.locator(".chart", has=page.get_by_role("heading", name=source, exact=True)).locator("svg")
        counts = Counter(sum(right) / len(right) for right in found.values())
        for rate, label in ((0.0, "0"), (0.25, "0.2–0.3"), (0.5, "0.5–0.6"), (0.75, "0.7–0.8"), (1.0, "1")):
            if counts[rate]:
                assert f"{label}: {counts[rate]}" in (bars.get_attribute("aria-label") or "")


def test_the_contact_sheet_shows_the_pictures_of_a_source(page: Page, dash: Dash) -> None:
    page.goto(dash.url("data", run="first", source="ocr/word"))
    shown(page, "data")
    cards = page.locator(".sheet li")
    expect(cards.first).to_contain_text("ocr/word")
    page.wait_for_function(
        "[...document.querySelectorAll('.sheet img')].every((i) => i.complete && i.naturalWidth > 0)"
    )
    with Store(dash.root / "first", readonly=True) as store:
        samples = {
            row.sample for row in store.find(Query(phase=None, sources=["ocr/word"], limit=10_000)).rows
        }
    assert cards.count() == len(samples)


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Dash]:
    with Store(tmp_path / "mine") as store:
        store.log_step(1, "train", [
            scalar("rows_skipped", 2, source="a"), scalar("dropped/loss", 1, source="a", task="t"),
            scalar("dropped/reason", 1, source="a", task="t", reason="timeout <i>"),
        ])  # fmt: skip
        store.log_step(2, "train", [scalar("rows_skipped", 3, source="a")])
    with serving(tmp_path) as running:
        yield running


def test_what_was_left_out_has_its_reason(left: Dash, page: Page) -> None:
    page.goto(left.url("data", run="mine"))
    shown(page, "data")
    table = page.get_by_role("table", name="Left out, with reasons")
    rollouts = "rollouts left out of the loss or the baseline a timeout <i> 1"
    expect(table.get_by_role("row", name=rollouts)).to_be_visible()
    expect(table.get_by_role("row", name="rows that cannot be used a – 3")).to_be_visible()
    expect(page.get_by_text("No rollouts are kept here.")).to_be_visible()
