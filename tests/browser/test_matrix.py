"""The matrix: what its cells say, and the way from a cell over its curve to the rollouts."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from triune.monitor.store import Store

from .conftest import Dash, shown


def test_cells_say_what_the_store_says(page: Page, dash: Dash) -> None:
    page.goto(dash.url("matrix", run="first", window="0"))
    shown(page, "matrix")
    heads = page.locator(".matrix thead button").all_inner_texts()
    with Store(dash.root / "first", readonly=True) as store:
        reward, latest = store.series("reward"), store.latest("component", by=("source", "component"))
    rows = page.locator(".matrix tbody tr")
    expect(rows).to_have_count(len(reward))
    for row in rows.all():
        source = row.locator("th").inner_text()
        points = reward[(source,)]
        cells = row.locator("td")
        now, by = cells.nth(heads.index("reward")).inner_text().split("\n")
        assert float(now) == float(f"{points[-1].mean:.3g}")
        assert (
            cells.nth(heads.index("reward"))
            .locator("a")
            .get_attribute("title")
            .startswith(f"{source}, reward:")
        )
        if len(points) > 1:
            change = points[-1].mean - points[0].mean
            assert by[0] == ("▲" if change > 0 else "▼" if change < 0 else "=")
        for (of, component), point in latest.items():
            if of == source:
                shown_value = cells.nth(heads.index(f"{component} (component)")).inner_text().split("\n")[0]
                assert float(shown_value) == float(f"{point.mean:.3g}")


def test_a_cell_opens_its_curve_and_the_curve_its_rollouts(page: Page, dash: Dash) -> None:
    page.goto(dash.url("matrix", run="first"))
    shown(page, "matrix")
    page.locator(".matrix td a").first.focus()
    page.keyboard.press("ArrowRight")
    chosen = page.locator(".matrix td a:focus")
    title = chosen.get_attribute("title") or ""
    page.keyboard.press("Enter")
    expect(page.locator(".matrix-curve svg")).to_be_focused()
    source, metric = title.split(":")[0].split(", ")
    expect(page.locator(".matrix-curve h2")).to_have_text(f"{metric} · {source}")
    expect(page.locator(".matrix td a.chosen")).to_have_count(1)
    page.keyboard.press("End")
    reading = page.locator(".matrix-curve .chart-reading").inner_text()
    page.keyboard.press("Enter")
    shown(page, "rollouts")
    step = re.search(r"step (\d+)", reading)
    assert step is not None
    assert f"step={step[1]}" in page.url
    assert "source=" in page.url
    page.goto(
        dash.url("matrix", run="first", source="detection/shapes", column="component|component|detection")
    )
    shown(page, "matrix")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    shown(page, "rollouts")
    assert page.get_by_label("component").input_value() == "detection"
    expect(page.locator(".rollouts-list th").nth(6)).to_have_text("detection")
    page.go_back()
    shown(page, "matrix")
    page.keyboard.press("Escape")
    expect(page.locator(".matrix-curve svg")).to_have_count(0)


def test_sorting_narrowing_and_evaluations(page: Page, dash: Dash) -> None:
    page.goto(dash.url("matrix", run="first", phase="held-out"))
    shown(page, "matrix")
    page.get_by_role("button", name=re.compile("^accuracy")).click()
    expect(page.locator("th[aria-sort=descending]")).to_have_count(1)
    heads = [text.split(" ↓")[0] for text in page.locator(".matrix thead button").all_inner_texts()]
    at = heads.index("accuracy")
    values = [
        float(row.locator("td").nth(at).inner_text().split("\n")[0])
        for row in page.locator(".matrix tbody tr").all()
    ]
    assert values == sorted(values, reverse=True)
    page.get_by_role("searchbox").fill("ocr")
    sources = page.locator(".matrix tbody th")
    expect(sources.first).to_contain_text("ocr")
    assert all("ocr" in name for name in sources.all_inner_texts())
    assert "find=ocr" in page.url
    page.get_by_role("searchbox").fill("<script>")
    expect(page.locator(".note")).to_have_text("No source is called “<script>”.")
