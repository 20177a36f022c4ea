"""For everybody: axe-core over every view in both themes, and the whole dashboard by keyboard."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from .conftest import Dash, accessible, shown

VIEWS = ("runs", "compare", "overview", "matrix", "rollouts", "health", "data", "alarms")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_no_serious_finding_of_axe(page: Page, dash: Dash, view: str, theme: str) -> None:
    page.emulate_media(color_scheme=theme)
    page.goto(dash.url(view, run="first"))
    shown(page, view)
    accessible(page)


def test_every_view_is_reached_by_its_key(page: Page, dash: Dash) -> None:
    page.goto(dash.url("runs"))
    shown(page, "runs")
    for key, view in enumerate(VIEWS, 1):
        page.keyboard.press(str(key))
        shown(page, view)
        expect(page.locator("nav a[aria-current=page]")).to_have_text(view.capitalize())


def test_tab_reaches_what_can_be_used_and_shows_where_it_is(page: Page, dash: Dash) -> None:
    page.goto(dash.url("health", run="first"))
    shown(page, "health")
    seen = []
    for _ in range(18):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "document.activeElement.tagName + ' ' + (document.activeElement.textContent || '').slice(0, 20)"
            )
        )
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert width != "0px", seen[-1]
    assert seen[0] == "A Skip to content"
    assert any(one.startswith("svg") for one in seen)  # the curves


def test_a_curve_is_read_and_opened_by_keys(page: Page, dash: Dash) -> None:
    page.goto(dash.url("health", run="first"))
    shown(page, "health")
    chart = page.locator(".chart", has=page.get_by_role("heading", name="Response length"))
    chart.locator("svg").focus()
    page.keyboard.press("Home")
    expect(chart.locator(".chart-reading")).to_contain_text("step 1:")
    page.keyboard.press("ArrowRight")
    expect(chart.locator(".chart-reading")).to_contain_text("step 2:")
    page.keyboard.press("Enter")
    shown(page, "rollouts")
    assert "step=2" in page.url


def test_help_opens_and_closes(page: Page, dash: Dash) -> None:
    page.goto(dash.url("runs"))
    shown(page, "runs")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
