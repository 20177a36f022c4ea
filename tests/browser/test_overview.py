"""The overview: alarms, the headline, a panel for each source, and charts that keep the reader's place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from triune.monitor.alarms import Alarm
from triune.monitor.store import Store

from .conftest import SCREENSHOTS, Dash, accessible, serving, shown
from .synthetic import recipe, step, synthetic
from .test_runs import NASTY

MANY = [f"task{n % 8}/source {n}" for n in range(64)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dash]:
    root = tmp_path_factory.mktemp("overviews")
    alarm = Alarm(
        "length_explosion", "ocr", "", 20, 12, f"answers grew {NASTY}", 3.0, 2.0, "completions/length"
    )
    synthetic(root / "two", steps=20, reward=lambda step, n: step / 40 + n / 2, events=[alarm.event()])
    synthetic(
        root / "many",
        sources=MANY,
        steps=320,
        eval_every=160,
        reward=lambda step, n: math.sin(step / 50 + n) / 2 + 0.5,
    )
    synthetic(root / NASTY, sources=[NASTY])
    synthetic(root / "nan", steps=4, reward=lambda step, n: math.nan if step == 3 and n == 0 else 0.5)
    recipe(root / "bare")
    Store(root / "bare").close()
    with serving(root) as running:
        yield running


def panel(page: Page, title: str) -> Locator:
    return page.locator(".chart", has=page.get_by_role("heading", name=title, exact=True))


def ends(path: str) -> tuple[tuple[float, float], tuple[float, float]]:
    found = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+),([\d.]+)", path)]
    return found[0], found[-1]


def test_alarms_headline_and_sources(page: Page, folder: Dash) -> None:
    page.goto(folder.url("overview", run="two"))
    shown(page, "overview")
    first = page.get_by_role("region", name="Alarms").locator(".note").first
    expect(first).to_contain_text("length_explosion (ocr) since step 20: answers grew <img")
    facts = page.locator(".facts div").all_inner_texts()
    assert facts[0].split("\n") == ["reward", "0.75 mean over sources"]  # 0.5 and 1
    assert facts[1].split("\n") == ["held-out accuracy", "0.4 +0.15 since step 5"]
    assert facts[2].split("\n")[1].startswith("20 of 20")
    assert page.locator(".chart").count() == 3
    assert page.locator(".chart h3").all_inner_texts() == ["mean over sources", "counting", "ocr"]
    expect(panel(page, "alarm: ocr")).to_have_class(re.compile("alarmed"))
    # counting: reward .025 at step 1, .5 at step 20, on an axis from 0 to 1 that spans the frame
    (left, start), (right, end) = ends(
        panel(page, "counting").locator("path.curve.k0").get_attribute("d") or ""
    )
    grid = [float(line.get_attribute("y1") or 0) for line in panel(page, "counting").locator(".grid").all()]
    assert end == pytest.approx((min(grid) + max(grid)) / 2, abs=0.1)
    assert start == pytest.approx(max(grid) - 0.025 * (max(grid) - min(grid)), abs=0.1)
    assert left < right


def test_a_click_on_a_curve_leads_to_the_rollouts_of_that_step(page: Page, dash: Dash) -> None:
    page.goto(dash.url("overview", run="first"))
    shown(page, "overview")
    svg = panel(page, "ocr/word").locator("svg")
    svg.focus()
    page.keyboard.press("End")
    expect(panel(page, "ocr/word").locator(".chart-reading")).to_contain_text("step 4:")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"#/rollouts\?run=first&source=ocr%2Fword&phase=train&step=4$"))


def test_sixty_four_sources_come_in_one_request_and_fit_on_one_screen(page: Page, folder: Dash) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(folder.url("overview", run="many"))
    shown(page, "overview")
    assert page.locator(".chart").count() == 65
    data = [url for url in asked if "/api/" in url and "/api/live" not in url and "/api/runs" not in url]
    assert len(data) == 1
    points = page.evaluate(
        "async url => (await (await fetch(url)).json()).sources.map(s => s.reward.step.length)", data[0]
    )
    assert len(points) == 64
    assert max(points) <= 150
    bottoms = page.evaluate(
        "[...document.querySelectorAll('.chart')].map(c => c.getBoundingClientRect().bottom)"
    )
    assert max(bottoms) <= 900
    assert page.locator(".chart path.curve.k0").count() == 65
    page.screenshot(path=SCREENSHOTS / "sixty-four-sources.png")
    accessible(page)
    page.keyboard.press("/")
    page.keyboard.type("task3 59")
    expect(page.locator(".chart h3")).to_have_text(["mean over sources", "task3/source 59"])


def test_what_is_off_the_screen_is_drawn_when_it_is_scrolled_to(page: Page, folder: Dash) -> None:
    page.goto(folder.url("overview", run="many", size="large"))
    shown(page, "overview")
    assert page.locator(".chart svg path.curve").count() < 100
    last = page.locator(".chart").last
    assert last.locator("path.curve").count() == 0
    last.scroll_into_view_if_needed()
    expect(last.locator("path.curve")).to_have_count(2)


def test_zoom_log_smoothing_and_time_are_kept_in_the_address(page: Page, folder: Dash) -> None:
    page.goto(folder.url("overview", run="many", size="large"))
    shown(page, "overview")
    chart = page.locator(".chart").first
    box = chart.locator("svg").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 60, steps=4)
    expect(chart.locator(".selection")).to_have_count(1)
    page.mouse.up()
    page.wait_for_url(re.compile("since=1[3-6].&until=2[2-4]."))
    axis = page.locator(".chart").nth(2).locator("svg > text")  # every panel shows the same steps
    expect(axis.nth(-2)).to_have_text(re.compile("^1[3-6].$"))
    expect(axis.last).to_have_text(re.compile("^2[2-4].$"))
    page.get_by_label("Smoothing").fill("0.9")
    expect(chart.locator("path.curve.raw.k0")).to_have_count(1)
    page.get_by_label("Log scale").check()
    page.reload()
    shown(page, "overview")
    expect(page.get_by_label("Log scale")).to_be_checked()
    expect(page.locator(".chart").first.locator("path.curve.raw.k0")).to_have_count(1)
    page.locator(".chart").first.locator("svg").press("0")
    page.wait_for_url(re.compile(r"^((?!since).)*$"))
    page.get_by_label("Axis").select_option("time")
    expect(page.locator(".chart").first.locator("svg > text").last).to_contain_text(re.compile(r" (s|min)$"))


def test_it_follows_a_live_run_and_keeps_the_reader_in_place(empty: Dash, page: Page) -> None:
    sources = [f"s{n:02}" for n in range(30)]
    recipe(empty.root / "live", "train.total_steps=50")
    with Store(empty.root / "live") as store:
        for number in (1, 2):
            store.log_step(number, "train", step(sources, number, lambda step, n: step / 10))
        page.goto(empty.url("overview", run="live", size="large"))
        shown(page, "overview")
        svg = panel(page, "s28").locator("svg")
        svg.scroll_into_view_if_needed()
        svg.focus()
        page.keyboard.press("Home")
        place, handle = page.evaluate("scrollY"), svg.element_handle()
        assert place > 0
        store.log_step(3, "train", step(sources[:29], 3, lambda step, n: step / 10))
        expect(page.locator(".facts div").nth(2)).to_contain_text("3 of 50")
        expect(panel(page, "s28").locator(".chart-reading")).to_have_text(
            "step 1: 0.1"
        )  # where the cursor was
        assert page.evaluate("scrollY") == place
        assert page.evaluate("svg => svg === document.activeElement", handle)
        expect(panel(page, "s27").locator(".chart-reading")).to_have_text("0.3")
        expect(panel(page, "s29").locator(".chart-reading")).to_have_text("0.2")
        expect(page.locator("#state")).to_have_text("live")
    expect(page.locator("#state")).to_have_text("not running")


def test_hostile_names_show_as_text_in_both_themes(page: Page, folder: Dash) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(folder.address)
    shown(page, "runs")
    page.get_by_role("link", name=NASTY).click()
    shown(page, "overview")
    expect(page.locator(".chart h3").last).to_have_text(NASTY)
    assert page.locator("img").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    svg = page.locator(".chart svg").last
    svg.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "name => new URLSearchParams(location.hash.split('?')[1]).get('source') === name", arg=NASTY
    )


def test_what_is_not_finite_is_a_gap_with_a_mark(page: Page, folder: Dash) -> None:
    page.goto(folder.url("overview", run="nan"))
    shown(page, "overview")
    one = panel(page, "counting")
    expect(one.locator(".broken title")).to_have_text("not finite at step 3")
    assert (one.locator("path.curve.k0").get_attribute("d") or "").count("M") == 2
    expect(panel(page, "ocr").locator(".broken")).to_have_count(0)


def test_a_run_without_a_step_says_so(page: Page, folder: Dash) -> None:
    page.goto(folder.url("overview", run="bare"))
    shown(page, "overview")
    expect(page.locator(".chart-reading")).to_have_text("nothing yet")
