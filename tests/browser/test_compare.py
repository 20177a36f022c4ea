"""Runs beside each other: overlay, difference, bands over seeds, paired held-out answers, recipes, and why not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from triune.monitor.compare import evaluation, paired
from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store

from .conftest import Dash, accessible, serving, shown
from .synthetic import recipe, step, synthetic
from .test_overview import panel
from .test_runs import NASTY

SEEDS = ("a1", "a2", "b1", "b2")


def answered(trained: Path, run_dir: Path, right: float, seed: int) -> None:
    """Adds to a run the trained run's last answers, of which so many are now right."""
    with Store(trained / "first", readonly=True) as store:
        rollouts = store.rollouts("eval-after", 4)
    drawn = np.random.default_rng(seed).random(len(rollouts)) < right

    def judged(rollout: Rollout, value: float) -> Rollout:
        components = [
            one.model_copy(update={"value": value}) if one.main else one for one in rollout.components
        ]
        return replace(rollout, components=tuple(components))

    with Store(run_dir) as store:
        found = [judged(rollout, float(value)) for rollout, value in zip(rollouts, drawn, strict=True)]
        store.log_step(10, "eval-after", [], found)


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dash]:
    root = tmp_path_factory.mktemp("compared")
    for n, name in enumerate(SEEDS):
        lr = "1e-4" if name[0] == "a" else "2e-4"
        synthetic(
            root / name, f"seed={n}", f"name={name[0]}", f"train.optimizer.lr={lr}",
            reward=lambda step, source, n=n: step / 20 + n / 10,
        )  # fmt: skip
        answered(trained, root / name, 0.3 + 0.15 * n, n)
    synthetic(root / "unanswered", "seed=9")
    synthetic(root / NASTY, f"monitor.words=['{NASTY[:8]}']", sources=[NASTY])
    (root / "broken").mkdir()
    (root / "broken/metrics.sqlite").write_bytes(b"no database" * 99)
    with serving(root) as running:
        yield running


def compare(page: Page, folder: Dash, *names: str, **parameters: str) -> None:
    page.goto(folder.url("compare", runs=quote(":".join(names)), **parameters))
    shown(page, "compare")


def heights(curve: Locator) -> list[float]:
    return [float(y) for _, y in re.findall(r"([\d.]+),([\d.]+)", curve.get_attribute("d") or "")]


def test_runs_are_overlaid_and_subtracted(page: Page, folder: Dash) -> None:
    compare(page, folder, "a1", "b1", "unanswered")
    expect(page.get_by_role("list", name="Curves").get_by_role("listitem")).to_have_text(
        ["a1", "b1", "unanswered"]
    )
    assert panel(page, "ocr").locator("path.curve").count() == 3
    page.get_by_label("Difference from").select_option("a1")
    expect(page.get_by_role("list", name="Curves").get_by_role("listitem")).to_have_text(["b1", "unanswered"])
    svg = panel(page, "counting").locator("svg")
    svg.press("End")
    expect(panel(page, "counting").locator(".chart-reading")).to_contain_text("b1 0.2")  # 0.7 less 0.5
    flat = heights(panel(page, "counting").locator("path.curve.k1"))
    assert len(flat) == 10
    assert max(flat) - min(flat) < 0.2
    page.get_by_label("of", exact=True).select_option("held-out")
    page.wait_for_url(re.compile("phase=held-out"))
    expect(page.get_by_label("Metric")).to_have_value("accuracy")
    page.reload()
    shown(page, "compare")
    expect(page.get_by_label("Difference from")).to_have_value("a1")


def test_a_band_over_seeds_is_drawn_where_the_seeds_are(page: Page, folder: Dash) -> None:
    compare(page, folder, *SEEDS)
    page.get_by_label("Mean and band over seeds").check()
    expect(page.get_by_role("list", name="Curves").get_by_role("listitem")).to_have_text(["a", "b"])
    one = panel(page, "counting")
    expect(one.locator("path.band")).to_have_count(2)
    expect(page.get_by_text("from the least to the greatest of its seeds")).to_be_visible()
    # a: 0.05 and 0.15 at step 1, b: 0.25 and 0.35, on the axis from 0.05 to 0.8 (b2 at step 10)
    low, middle, high = (float(line.get_attribute("y1") or 0) for line in one.locator(".grid").all())
    assert middle == pytest.approx((low + high) / 2)
    accessible(page)
    edges = heights(one.locator("path.band.k0"))
    at = lambda value: low + (value - 0.05) / 0.75 * (high - low)  # noqa: E731
    assert edges[0] == pytest.approx(at(0.15), abs=0.1)
    assert edges[-1] == pytest.approx(at(0.05), abs=0.1)
    assert heights(one.locator("path.curve.k0"))[0] == pytest.approx(at(0.10), abs=0.1)


@pytest.mark.parametrize("seeds", [False, True])
def test_the_table_holds_the_paired_numbers(page: Page, folder: Dash, seeds: bool) -> None:
    compare(page, folder, *SEEDS, seeds="1" if seeds else "")

    def read(name: str) -> object:
        with Store(folder.root / name, readonly=True) as store:
            return evaluation(store, name)

    sides = [
        [read(name) for name in group]
        for group in ((("a1", "a2"), ("b1", "b2")) if seeds else (("a1",), ("b1",)))
    ]
    gains = paired(*sides)  # type: ignore[arg-type]
    table = page.get_by_role("table", name="b against a" if seeds else "b1 against a1")
    rows = {
        row.locator("td").first.inner_text(): row.locator("td").all_inner_texts()
        for row in table.locator("tbody tr").all()
    }
    assert len(rows) == 1 + len(gains.tasks) + len(gains.sources)
    for title, gain in [("mean over tasks", gains.mean), *gains.sources.items()]:
        assert gain.ci95
        shown_ = [
            float(part.replace("−", "-").replace("±", ""))
            for part in [*rows[title][1:4], *rows[title][4].split(" to ")]
        ]
        assert shown_ == pytest.approx([gain.before, gain.after, gain.gain, *gain.ci95], rel=5e-3, abs=1e-9)
        assert rows[title][5] == f"{gain.n}"
    covered = "over seeds and samples" if seeds else "over samples"
    expect(page.get_by_text(covered).first).to_be_visible()


def test_recipes_and_reasons_are_said(page: Page, folder: Dash) -> None:
    compare(page, folder, "a1", "b1", "unanswered", "broken", "../elsewhere", NASTY)
    notes = page.locator(".note.warn")
    expect(notes.filter(has_text=re.compile("^broken: .*metrics.sqlite"))).to_have_count(1)
    expect(notes.filter(has_text="'../elsewhere' is not the name of a run")).to_have_count(1)
    expect(notes.filter(has_text=re.compile("^unanswered: no held-out answers were kept"))).to_have_count(1)
    rows = page.get_by_role("region", name="Recipe difference").locator("tbody tr").all_inner_texts()
    assert "train.optimizer.lr\t0.0001\t0.0002\t0.0001\t0.0001" in rows
    assert any(row.startswith("monitor.words[0]") and NASTY[:8] in row for row in rows)
    expect(panel(page, NASTY)).to_have_count(1)
    assert page.locator("img").count() == 0
    page.get_by_role("button", name="leave out broken").click()
    expect(notes.filter(has_text="broken")).to_have_count(0)


def test_so_many_runs_are_refused_in_words(page: Page, folder: Dash) -> None:
    said = page.request.get(f"{folder.address}/api/compare?" + "&".join(f"run=r{n}" for n in range(33)))
    assert said.status == 400
    assert said.json() == {"error": "at most 32 runs are compared at once, and 33 were chosen"}


def test_from_the_list_by_keys_alone_in_the_dark(page: Page, folder: Dash) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(folder.url("runs", text="a", sort="name"))
    shown(page, "runs")
    page.keyboard.press("j")
    for name in ("a1", "a2"):
        page.get_by_label(f"select {name}").focus()
        page.keyboard.press("Space")
    page.keyboard.press("2")
    shown(page, "compare")
    expect(page.get_by_role("list", name="Chosen runs").get_by_role("listitem")).to_have_text(
        [re.compile("a1"), re.compile("a2")]
    )
    page.keyboard.press("1")
    shown(page, "runs")
    expect(page.get_by_label("select a2")).to_be_checked()


def test_it_follows_a_run_that_goes_on(empty: Dash, page: Page) -> None:
    for n in range(2):
        recipe(empty.root / f"r{n}", f"seed={n}")
        with Store(empty.root / f"r{n}") as store:
            store.log_step(1, "train", step(["s"], 1, lambda step, n: 0.5))
    compare(page, empty, "r0", "r1")
    svg = panel(page, "s").locator("svg")
    svg.focus()
    with Store(empty.root / "r1") as store:
        store.log_step(2, "train", step(["s"], 2, lambda step, n: 0.7))
        expect(panel(page, "s").locator(".chart-reading")).to_have_text("r0 0.5, r1 0.7")
    expect(svg).to_be_focused()
