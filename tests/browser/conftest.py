"""A real run, a real `triune dash` process and a real Chromium."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from triune.core.loading import find_recipe
from triune.core.provenance import save_provenance
from triune.core.recipe import Recipe
from triune.verify.programs.browser import find_chromium

from .odd import write

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
"""Where pictures of the pages are left, for whoever looks at a failed run."""
SMALL = (
    "train.total_steps=4", "train.prompts_per_step=8", "train.rollouts_per_prompt=4", "train.minibatches_per_step=1",
    "train.eval_every=2", "monitor.rollouts_every=1", "data.heldout_per_source=2", "judge.workers=0",
    "monitor.sinks=[]", "train.probe=false",
)  # fmt: skip


@dataclass(frozen=True)
class Dash:
    """A dashboard that runs."""

    address: str
    root: Path

    def url(self, view: str, **parameters: str) -> str:
        return f"{self.address}/#/{view}?" + "&".join(f"{name}={value}" for name, value in parameters.items())


def train(run_dir: Path, *overrides: str) -> None:
    """A short real run of the embedded model on the embedded tasks."""
    from triune.loop import Loop

    recipe = Recipe.load(find_recipe("quickstart"), (*SMALL, *overrides))
    save_provenance(run_dir, recipe)
    with Loop(recipe, run_dir) as loop:
        loop.evaluate("eval-before")
        loop.run()
        loop.evaluate("eval-after")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `first`; for reading only."""
    root = tmp_path_factory.mktemp("runs")
    train(root / "first")
    return root


@pytest.fixture(scope="session")
def dash(trained: Path) -> Iterator[Dash]:
    with serving(trained) as running:
        yield running


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Dash]:
    """A dashboard of a folder in which there is no run yet. To be asked for before `page`, which must end first."""
    with serving(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dash]:
    """The run `odd`, in which everything unusual happens once; for reading only."""
    root = tmp_path_factory.mktemp("odd")
    write(root / "odd")
    with serving(root) as running:
        yield running


class serving:  # noqa: N801  (used as a function)
    """`with serving(root) as dash`: the command itself, in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self) -> Dash:
        command = [sys.executable, "-u", "-m", "triune.cli", "dash", str(self.root), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        return Dash(found.group(), self.root)

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page; the test fails if the browser's console had an error."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    expect.set_options(timeout=15_000)  # 5 seconds are short where other tests run beside
    page = context.new_page()
    errors: list[str] = []

    def said(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(f"{message.text} ({message.location.get('url')})")

    page.on("console", said)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^a-z0-9_-]+', '-', request.node.name.lower())}.png")
    context.close()
    assert not errors, errors


def shown(page: Page, view: str) -> None:
    """Waits until a view has drawn what it has."""
    page.wait_for_selector(f"#content[data-ready='{view}']")


def accessible(page: Page) -> None:
    """Nothing serious is found by axe-core."""
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not serious, json.dumps(serious, indent=1)[:4000]
