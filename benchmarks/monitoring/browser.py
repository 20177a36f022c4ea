"""A run of 64 sources x 40 metrics x 5,000 steps with rollouts, opened through `triune dash` in a real Chromium."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from monitoring.made import group, metrics
from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.monitor.monitor import Monitor
from triune.monitor.store import Store
from triune.verify.programs.browser import find_chromium

SHAPES = 100
"""Steps whose metrics are made; the others repeat them along the run, which costs less than to make them all."""
ROLLOUT_STEPS = 50
EVALUATIONS = 50


def build(run_dir: Path, sources: int, names: int, steps: int) -> float:
    """Writes the run as training would, and returns the seconds that it took."""
    run_dir.mkdir(parents=True)
    recipe = Recipe.load(find_recipe("quickstart"), (f"train.total_steps={steps}",))
    (run_dir / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    made = [metrics(sources, names, shape / SHAPES, shape) for shape in range(SHAPES)]
    started = time.monotonic()
    with Store(run_dir) as store:
        for step in range(1, steps + 1):
            # Neighbours in turn, so that the curves rise with noise over all of the run.
            shape = min(SHAPES - 1, max(0, step * SHAPES // steps + step % 7 - 3))
            store.log_step(step, "train", made[shape])
            if step % max(1, steps // EVALUATIONS) == 0:
                store.log_step(step, "eval", made[shape])
    seconds = time.monotonic() - started
    with Monitor(run_dir) as monitor:  # rollouts of some steps, a few more of them than the metrics say
        for step in range(steps + 1, steps + 1 + ROLLOUT_STEPS):
            scored = [
                one
                for source in range(4)
                for one in group(step * 4 + source, f"task{source % 8}/source{source:02d}")
            ]
            monitor.log_step(step, "train", scored, made[-1])
    return seconds


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of a dashboard of these runs, in a process of its own."""
    command = [sys.executable, "-u", "-m", "triune.cli", "dash", str(root), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found, "the dashboard did not say where it is"
        yield found.group()
    finally:
        process.terminate()
        process.wait(timeout=20)


def opening(root: Path, run: str, repeats: int) -> dict[str, Any]:
    """Seconds from the address of the overview until its charts are drawn, in a browser that has never been there; and from
    a click in the navigation until another view is drawn. Medians."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        opened, clicked = [], []
        for _ in range(repeats):
            with serving(root) as address:
                opened.append(_open(chromium, f"{address}/#/overview?run={run}", clicked))
        chromium.close()
    return {
        "open_seconds": statistics.median(opened),
        "open_seconds_all": opened,
        "click_seconds": statistics.median(clicked),
        "click_seconds_all": clicked,
    }


def _open(chromium: Browser, url: str, clicked: list[float]) -> float:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    started = time.monotonic()
    page.goto(url)
    _ready(page, "overview")
    seconds = time.monotonic() - started
    for view in ("Health", "Overview"):
        started = time.monotonic()
        page.get_by_role("link", name=view, exact=True).click()
        _ready(page, view.lower())
        clicked.append(time.monotonic() - started)
    context.close()
    return seconds


def _ready(page: Page, view: str) -> None:
    page.wait_for_selector(f"#content[data-ready={view}]", state="attached", timeout=120_000)
    assert page.locator("canvas, svg").count() > 0, f"{view} has no charts"
