"""The shell: views by address and by key, both themes, word of changes."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from .conftest import Dash, shown


def test_the_runs_are_listed_and_one_opens(page: Page, dash: Dash) -> None:
    page.goto(dash.address)
    shown(page, "runs")
    page.get_by_role("link", name="first").click()
    shown(page, "overview")
    expect(page).to_have_title("Overview · first · Triune")
    assert page.locator(".chart").count() >= 8  # one for each task's sources
    assert page.locator(".chart path.curve").first.get_attribute("d")


def test_the_theme_is_kept(page: Page, dash: Dash) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(dash.url("runs"))
    shown(page, "runs")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.keyboard.press("t")
    dark = page.evaluate(ground)
    assert light != dark
    page.reload()
    shown(page, "runs")
    assert page.evaluate(ground) == dark
