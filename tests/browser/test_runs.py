"""The list of runs: what it says, how it is searched, sorted, tagged and selected, and that it follows a run by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Locator, Page, expect

from triune.monitor.alarms import Alarm
from triune.monitor.dash.app import create_app
from triune.monitor.monitor import Monitor
from triune.monitor.runs import RunFolder, Runs
from triune.monitor.store import Store

from .conftest import Dash, accessible, serving, shown
from .synthetic import recipe, step, synthetic

NASTY = "<img src=x onerror=alert(1)> \"q\" 'a' 100% #1 & ünï/テスト"
"""The name of a run, of a source, of a tag and of a value in its recipe."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dash]:
    root = tmp_path_factory.mktemp("several")
    synthetic(root / "alpha", "seed=1", "train.prompts_per_step=7")
    alarm = Alarm("length_explosion", "ocr", "", 20, 12, "answers grew", 3.0, 2.0, "completions/length")
    synthetic(root / "grid/beta", "seed=2", steps=20, events=[alarm.event()])
    synthetic(root / NASTY, f"monitor.words={json.dumps([NASTY])}", sources=[NASTY])
    RunFolder("alpha", root / "alpha").tag(["baseline", "keep"])
    with serving(root) as running:
        yield running


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def names(page: Page) -> list[str]:
    return page.locator("table.runs tbody td:nth-child(2) a").all_inner_texts()


def test_a_row_says_where_the_run_stands(page: Page, folder: Dash) -> None:
    page.goto(folder.url("runs"))
    shown(page, "runs")
    beta = row(page, "grid/beta").locator("td").all_inner_texts()
    assert beta[2:4] == ["finished", "20 / 20"]
    assert beta[5:8] == ["2.5", "0.4", "+0.15"]  # rewards 2 and 3; 0.25 at step 5, 0.4 at step 20
    expect(row(page, "grid/beta").get_by_role("link", name="1 alarm")).to_have_class("warn")
    assert len(names(page)) == 3


def test_it_sorts_by_a_column_and_back(page: Page, folder: Dash) -> None:
    page.goto(folder.url("runs"))
    shown(page, "runs")
    newest = names(page)
    by_name = page.get_by_role("button", name="run", exact=True)
    by_name.click()
    assert names(page) == [NASTY, "alpha", "grid/beta"]
    expect(page.get_by_role("columnheader", name="run", exact=True)).to_have_attribute(
        "aria-sort", "ascending"
    )
    by_name.click()
    assert names(page) == ["grid/beta", "alpha", NASTY]
    page.reload()  # it is in the address
    shown(page, "runs")
    assert names(page) == ["grid/beta", "alpha", NASTY]
    by_name.click()
    assert names(page) == newest


def test_search_looks_at_names_tags_and_recipes(page: Page, folder: Dash) -> None:
    page.goto(folder.url("runs"))
    shown(page, "runs")
    page.keyboard.press("/")
    search = page.get_by_label("Search")
    expect(search).to_be_focused()
    for words, found in (
        ("GRID", ["grid/beta"]),
        ("baseline alpha", ["alpha"]),
        ("prompts_per_step: 7", ["alpha"]),
        ("baseline nowhere", []),
        ("100% &", [NASTY]),
    ):
        search.fill(words)
        expect(page.locator("table.runs tbody [data-item]")).to_have_text(found)
    search.fill("prompts_per_step: 7")
    expect(row(page, "alpha").locator("code, .mono")).to_have_text("train.prompts_per_step: 7")
    expect(search).to_be_focused()


def test_tags_are_edited_in_the_page(page: Page, folder: Dash) -> None:
    page.goto(folder.url("runs"))
    shown(page, "runs")
    opener = page.get_by_role("button", name="tags of grid/beta")
    opener.press("Enter")
    page.keyboard.type(NASTY)
    page.keyboard.press("Enter")
    page.keyboard.type("second")
    accessible(page)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(opener).to_be_focused()
    expect(row(page, "grid/beta").locator(".tag")).to_have_text([NASTY, "second"])
    assert RunFolder("", folder.root / "grid/beta").tags == (NASTY, "second")
    opener.click()
    page.get_by_role("button", name="remove second").click()
    page.get_by_role("button", name="Save").click()
    expect(row(page, "grid/beta").locator(".tag")).to_have_text([NASTY])


def test_selected_runs_show_where_their_recipes_differ(page: Page, folder: Dash) -> None:
    page.goto(folder.url("runs"))
    shown(page, "runs")
    page.get_by_label("select alpha").press("Space")
    page.get_by_label("select grid/beta").press("Space")
    expect(page.get_by_role("status").filter(has_text="selected")).to_have_text("3 runs, 2 selected")
    page.get_by_role("button", name="Recipe difference").press("Enter")
    table = page.get_by_role("region", name="Recipe difference").get_by_role("row")
    expect(table).to_have_text(
        ["keyalphagrid/beta", "seed12", "train.total_steps1020", "train.prompts_per_step732"]
    )
    page.get_by_label(f"select {NASTY}").check()
    expect(table.first).to_contain_text(NASTY)
    expect(page.locator("img")).to_have_count(0)


def test_a_run_appears_and_goes_on_without_reload(empty: Dash, page: Page) -> None:
    page.goto(empty.url("runs"))
    shown(page, "runs")
    expect(page.locator(".note")).to_contain_text("No run here yet")
    page.evaluate("window.untouched = true")
    recipe(empty.root / "new", "train.total_steps=9")
    with Monitor(empty.root / "new") as monitor:
        monitor.log_step(1, "train", scalars=step(["ocr"], 1, lambda step, n: 0.25))
        expect(row(page, "new").locator("td").nth(3)).to_have_text("1 / 9")
        expect(row(page, "new").locator("td").nth(2)).to_have_text("live")
        page.get_by_label("select new").focus()
        monitor.log_step(2, "train", scalars=step(["ocr"], 2, lambda step, n: 0.75))
        expect(row(page, "new").locator("td").nth(5)).to_have_text("0.75")
        expect(page.get_by_label("select new")).to_be_focused()
    expect(row(page, "new").locator("td").nth(2)).to_have_text("stopped")
    expect(page.get_by_role("link", name="Matrix")).to_have_attribute("href", "#/matrix?run=new")
    assert page.evaluate("window.untouched")


def test_a_list_of_many_runs_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triune.monitor.dash.routes.runs.PATIENCE_SECONDS", 0.0)
    for n in range(4):
        synthetic(tmp_path / f"r{n}", steps=1)
    with TestClient(create_app(tmp_path), base_url="http://127.0.0.1") as client:
        parts = [client.get("/api/runs").json() for _ in range(5)]
        assert [part["waiting"] for part in parts] == [3, 2, 1, 0, 0]
        assert all(len(part["runs"]) == 4 for part in parts)
        assert [row["step"] for row in parts[-1]["runs"]] == [1, 1, 1, 1]
        with Store(tmp_path / "r2") as store:  # only what was written to is read again
            store.log_step(2, "train", step(["s"], 2, lambda step, n: 0.5))
        opened: list[str] = []
        monkeypatch.setattr(
            Runs, "reading", lambda runs, name: opened.append(name) or Store(tmp_path / name, readonly=True)
        )
        assert client.get("/api/runs").json()["waiting"] == 0
        assert opened == ["r2"]


def test_a_run_that_cannot_be_read_says_why(empty: Dash, page: Page) -> None:
    synthetic(empty.root / "good", steps=2)
    (empty.root / "bad").mkdir()
    (empty.root / "bad/metrics.sqlite").write_bytes(b"not a database" * 100)
    page.goto(empty.url("runs"))
    shown(page, "runs")
    expect(row(page, "bad").locator(".bad")).to_contain_text("metrics.sqlite")
    expect(row(page, "good").locator("td").nth(2)).to_have_text("finished")
