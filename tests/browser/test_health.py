"""Health: the declared panels, and the gradient by layer."""

from __future__ import annotations

from playwright.sync_api import Page, expect

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
    page.get_by_label("of", exact=True).select_option("ocr/word")
    page.wait_for_url("**source=ocr%2Fword")
    shown(page, "health")
    expect(page.get_by_role("heading", name="Response length")).to_have_count(1)
    expect(page.get_by_role("heading", name="Learning rate")).to_have_count(0)  # of the whole run only
