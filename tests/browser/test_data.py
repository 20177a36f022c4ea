"""The data view: what a source was fed, how hard it is, what was left out, and its pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from triune.core.sample import Sample
from triune.monitor.index import Query
from triune.monitor.metric import Scored, scalar
from triune.monitor.store import Event, Store

from .conftest import Dash, serving, shown
from .odd import log, make_sample, make_scored


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
        skipped = {"message": "a: skipped rows", "source": "a", "media": 7, "truth": 1}
        for count in (9, 7):  # a run that was resumed found other rows
            store.log_event(Event("skipped", skipped | {"media": count}, 0))
        said = {"message": "skipped: a-1: no answer <b>", "source": "a", "sample": "a-1"}
        store.log_event(Event("skipped", said, 2))
    with serving(tmp_path) as running:
        yield running


def test_what_was_left_out_has_its_reason(left: Dash, page: Page) -> None:
    page.goto(left.url("data", run="mine"))
    shown(page, "data")
    table = page.get_by_role("table", name="Left out, with reasons")
    rollouts = "rollouts left out of the loss or the baseline a timeout <i> 1"
    expect(table.get_by_role("row", name=rollouts)).to_be_visible()
    expect(table.get_by_role("row", name="rows that cannot be used a media 7")).to_be_visible()
    expect(table.get_by_role("row", name="rows that cannot be used a truth 1")).to_be_visible()
    expect(table.get_by_role("row", name="samples that cannot be run a a-1: no answer <b> 3")).to_be_visible()
    expect(page.get_by_text("No rollout was kept yet.").last).to_be_visible()


def test_it_follows_a_run_and_each_sample_is_there_once(empty: Dash, page: Page) -> None:
    samples = [make_sample(n, "a/one", id=f"s{n}") for n in range(60)]

    def judged(chosen: list[Sample]) -> list[Scored]:
        return [make_scored(float(rank % 2), one, rank=rank) for one in chosen for rank in range(4)]

    page.set_viewport_size({"width": 900, "height": 700})
    with Store(empty.root / "run") as store:
        page.goto(empty.url("data", run="run"))
        shown(page, "data")
        expect(page.get_by_text("No rollout was kept yet.").last).to_be_visible()
        for step in (1, 2, 3):
            log(store, step, "train", judged(samples[:50]))
        log(store, 3, "eval", judged([samples[55]]))
        expect(page.locator(".sheet li")).to_have_count(48)
        page.get_by_role("button", name="More").click()
        expect(page.locator(".sheet li")).to_have_count(51)
        expect(page.get_by_role("button", name="More")).to_be_hidden()
        names = page.locator(".sheet .name").all_inner_texts()
        assert len(set(names)) == 51
        choice = page.get_by_label("source", exact=True)
        choice.focus()
        page.evaluate("document.querySelector('#content select').options[1].dataset.mine = 'here'")
        log(store, 4, "train", judged([samples[40], samples[59]]))
        expect(page.locator(".sheet li").first).to_contain_text("s59")
        expect(page.locator(".sheet li", has=page.get_by_text("s40", exact=True))).to_contain_text(
            "step 4, 8 of 16 right"
        )
        expect(choice).to_be_focused()
        assert choice.locator("option[data-mine=here]").count() == 1  # a list that is open stays so
        page.locator(
            ".sheet li a", has=page.get_by_text("s55", exact=True)
        ).click()  # met in an evaluation only
        shown(page, "rollouts")
        expect(page.get_by_text("1 to 4 of 4 rollouts")).to_be_visible()
