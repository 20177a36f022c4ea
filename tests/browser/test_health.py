"""Health: the declared panels, and the gradient by layer."""

from __future__ import annotations

import math

import pytest
from playwright.sync_api import Page, expect

from triune.monitor.metric import scalar
from triune.monitor.store import Store

from .conftest import Dash, shown

TITLES = (
    "Gradient norm",
    "Response length",
    "Seconds per step",
    "Tokens per second",
    "Memory",
    "Groups without spread",
)


def test_panels_show_what_was_logged(page: Page, dash: Dash) -> None:
    page.goto(dash.url("health", run="first"))
    shown(page, "health")
    for title in TITLES:
        expect(page.locator(".chart", has=page.get_by_role("heading", name=title, exact=True))).to_have_count(
            1
        )
    with Store(dash.root / "first", readonly=True) as store:
        norms = store.latest("grad_norm", by=("module",))
        layers = store.latest("grad_norm/layer", by=("layer",))
    chart = page.locator(".chart", has=page.get_by_role("heading", name="Gradient norm", exact=True))
    assert chart.locator("path.curve").count() == len(norms)
    rows = page.locator(".heat tbody th")
    assert rows.count() == len(layers) > 3
    names = rows.all_inner_texts()
    assert names.index("language.embed") < names.index("language.0") < names.index("language.head")


def test_one_source_shows_its_own_curves(page: Page, dash: Dash) -> None:
    page.goto(dash.url("health", run="first"))
    shown(page, "health")
    page.get_by_label("source", exact=True).select_option("ocr/word")
    page.wait_for_url("**source=ocr%2Fword")
    shown(page, "health")
    expect(page.get_by_role("heading", name="Response length")).to_have_count(1)
    expect(page.get_by_role("heading", name="Learning rate")).to_have_count(0)  # of the whole run only


def test_it_follows_a_run_from_its_beginning_and_keeps_its_place(empty: Dash, page: Page) -> None:
    layers = [f"{module}.{n}" for module in ("language", "vision") for n in range(30)]

    def log(store: Store, step: int) -> None:
        norms = [
            scalar("grad_norm/layer", math.nan if (layer, step) == ("vision.3", 2) else step, layer=layer)
            for layer in layers
        ]
        store.log_step(step, "train", [*norms, scalar("grad_norm", 10.0**step, module="vision")])

    with Store(empty.root / "run") as store:
        page.goto(empty.url("health", run="run"))
        shown(page, "health")
        expect(page.get_by_text("Nothing was logged yet.")).to_be_visible()
        for step in (1, 2, 3):
            log(store, step)
        chart = page.locator(".chart", has=page.get_by_role("heading", name="Gradient norm", exact=True))
        expect(chart.locator(".chart-reading")).to_have_text("1,000")
        expect(page.get_by_text("Nothing was logged yet.")).to_have_count(0)
        expect(page.locator(".heat .broken title")).to_have_text("not finite")
        # A norm may spike: on a log scale a straight line, over its middle.
        points = chart.locator("path.curve").evaluate(
            "p => p.getAttribute('d').slice(1).split('L').map(a => +a.split(',')[1])"
        )
        assert points[1] == pytest.approx((points[0] + points[2]) / 2, abs=0.2)
        chart.locator("svg").focus()
        page.keyboard.press("Home")
        page.get_by_role("row", name="vision.29").scroll_into_view_if_needed()
        place = page.evaluate("scrollY")
        log(store, 4)
        expect(page.get_by_role("row", name="vision.29 vision.29: last 4")).to_be_visible()
        expect(chart.locator(".chart-reading")).to_have_text("step 1: 10")
        assert page.evaluate("scrollY") == place


def test_a_range_is_shown_in_all_panels(page: Page, dash: Dash) -> None:
    page.goto(dash.url("health", run="first"))
    shown(page, "health")
    page.locator(".chart svg").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("+")
    page.wait_for_url("**since=**")
    expect(page.get_by_role("button", name="whole run").nth(3)).to_be_visible()
    page.keyboard.press("0")
    expect(page.get_by_role("button", name="whole run")).to_have_count(0)


def test_a_run_in_the_place_of_another_is_shown_alone(empty: Dash, page: Page) -> None:
    for name, metric in (("run", "entropy"), ("other", "learning_rate")):
        with Store(empty.root / name) as store:
            store.log_step(1, "train", [scalar(metric, 0.5)])
    page.goto(empty.url("health", run="run"))
    shown(page, "health")
    expect(page.get_by_role("heading", name="Entropy")).to_be_visible()
    (empty.root / "run").rename(empty.root / "aside")
    expect(page.locator("#state")).to_have_text("gone")
    expect(page.get_by_role("alert")).to_contain_text("there is no run 'run'")
    (empty.root / "other").rename(empty.root / "run")
    expect(page.get_by_role("heading", name="Learning rate")).to_be_visible()
    expect(page.get_by_role("heading", name="Entropy")).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)
