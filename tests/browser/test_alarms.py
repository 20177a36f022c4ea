"""Alarms in the browser: those that hold, with their curve; those that are over; what a rule could not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from triune.monitor.alarms import ALARMS, Alarm, Note
from triune.monitor.metric import scalar
from triune.monitor.store import Store

from .conftest import Dash, serving, shown


def alarm(rule: str, source: str, step: int) -> Alarm:
    message = f"<b>{source}</b> lost its entropy"
    return Alarm(rule, source, "", step, step - 2, message, 0.01, 0.1, "entropy")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dash, Path]]:
    root = tmp_path_factory.mktemp("noisy")
    with Store(root / "run") as store:
        for step in range(1, 9):
            entropy = [scalar("entropy", 1 / step, source=source) for source in ("a/one", "b/two")]
            store.log_step(step, "train", entropy)
        held, over = alarm("entropy_collapse", "a/one", 6), alarm("entropy_collapse", "b/two", 4)
        for event in (
            held.event(),
            over.event(),
            over.event_over(7),
            Note("blind_policy", "needs eval-blind").event(1),
        ):
            store.log_event(event)
    with serving(root) as running:
        yield running, root / "run"


def test_what_holds_comes_first_with_its_curve(page: Page, noisy: tuple[Dash, Path]) -> None:
    dash, _ = noisy
    page.goto(dash.url("alarms", run="run"))
    shown(page, "alarms")
    card = page.get_by_role("region", name="entropy_collapse, a/one")
    expect(card).to_contain_text("<b>a/one</b> lost its entropy")  # as text
    expect(card).to_contain_text("Since step 4, raised at step 6 at 0.01, bound 0.1")
    assert card.locator("path.curve").count() == 1
    expect(page.get_by_role("region")).to_have_count(1)
    expect(page.get_by_role("row", name="entropy_collapse b/two 4 7")).to_be_visible()
    expect(page.get_by_text("blind_policy: needs eval-blind")).to_be_visible()
    page.get_by_text("What the rules watch").click()
    for name in ALARMS:
        expect(page.get_by_role("term").filter(has_text=name).first).to_be_visible()


def test_a_new_alarm_appears_by_itself(page: Page, noisy: tuple[Dash, Path]) -> None:
    dash, run = noisy
    page.goto(dash.url("alarms", run="run"))
    shown(page, "alarms")
    with Store(run) as store:
        store.log_event(alarm("failing_verifier", "b/two", 8).event())
        added = page.get_by_role("region", name="failing_verifier, b/two")
        expect(added).to_be_visible()
        # Its curve goes on without it, and the cursor stays.
        added.locator(".chart svg").focus()
        page.keyboard.press("Home")
        store.log_step(9, "train", [scalar("entropy", 1 / 9, source="b/two")])
        expect(added.get_by_role("button", name="0.111 at step 9")).to_be_visible()
        expect(added.locator(".chart-reading")).to_have_text("step 1: 1")
