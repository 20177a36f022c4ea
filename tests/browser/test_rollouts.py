"""Rollouts: filters, one rollout, groups, samples through the steps, before and after; hostile and damaged ones as well."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store

from .conftest import Dash, serving, shown
from .odd import EVIL, LONG, log, make_sample, make_scored


def one(page: Page, odd: Dash, sample: str, phase: str = "train", step: int = 1) -> None:
    """Opens the first rollout of a sample."""
    with Store(odd.root / "odd", readonly=True) as store:
        row = next(n for n, rollout in enumerate(store.rollouts(phase, step)) if rollout.sample == sample)
    page.goto(odd.url("rollouts", run="odd", show="one", at=f"{phase}:{step}:{row}"))
    shown(page, "rollouts")


def everything(run_dir: Path, phase: str = "train") -> list[Rollout]:
    with Store(run_dir, readonly=True) as store:
        return [rollout for step in store.rollout_steps(phase) for rollout in store.rollouts(phase, step)]


def names(page: Page) -> list[str]:
    return page.locator(".rollouts-list a[data-item]").all_inner_texts()


def test_filters_leave_what_a_filter_over_the_store_leaves(page: Page, dash: Dash) -> None:
    held = everything(dash.root / "first")
    source = held[0].source
    page.goto(dash.url("rollouts", run="first", order="step"))
    shown(page, "rollouts")
    status = page.get_by_role("status").filter(has_text="rollouts")
    expect(status).to_have_text(f"1 to 50 of {len(held)} rollouts")
    page.get_by_label("source").select_option(source)
    expect(status).to_contain_text(f"of {sum(one.source == source for one in held)} rollouts")
    page.get_by_label("reward to").fill("0.5")
    page.get_by_label("reward to").press("Enter")
    page.get_by_label("steps").fill("1-3")
    page.get_by_label("steps").press("Enter")
    wanted = [
        one
        for one in held
        if one.source == source and one.step <= 3 and one.reward is not None and one.reward <= 0.5
    ]
    expect(status).to_contain_text(f"{len(wanted)} rollouts")
    assert names(page) == [f"{one.sample} #{one.rank}" for one in wanted[:50]]
    # The address says it all: the same list again, by its address alone.
    before = names(page)
    page.reload()
    shown(page, "rollouts")
    assert names(page) == before
    assert page.get_by_label("steps").input_value() == "1-3"


FILTERS: list[tuple[dict[str, str], Callable[[Rollout], bool]]] = [
    ({"correct": "yes"}, lambda one: one.correct is True),
    ({"length_min": "20", "length_max": "40"}, lambda one: 20 <= one.response_tokens <= 40),
    ({"phase": "eval", "ending": "answered"}, lambda one: one.ending == "answered"),
    ({"text": "ANSWER>"}, lambda one: "answer>" in (one.prompt + one.response).lower()),
    (
        {"component": "format_json", "value_max": "0.5"},
        lambda one: any(
            p.name == "format_json" and p.value is not None and p.value <= 0.5 for p in one.components
        ),
    ),
]


def test_each_filter(page: Page, dash: Dash) -> None:
    for parameters, keep in FILTERS:
        held = everything(dash.root / "first", parameters.get("phase", "train"))
        wanted = [f"{one.sample} #{one.rank}" for one in held if keep(one)]
        assert 0 < len(wanted) < len(held) or "ending" in parameters
        page.goto(dash.url("rollouts", run="first", order="step", **parameters))
        shown(page, "rollouts")
        found = names(page)
        while page.get_by_role("link", name="Next page").count():
            page.get_by_role("link", name="Next page").click()
            page.wait_for_function(
                "old => document.querySelector('.rollouts-list a')?.innerText !== old", arg=found[-50]
            )
            shown(page, "rollouts")
            found += names(page)
        assert found == wanted, parameters


def test_the_walk_by_keys_ends_where_it_began(page: Page, dash: Dash) -> None:
    page.goto(dash.url("rollouts", run="first", order="step"))
    shown(page, "rollouts")
    page.get_by_role("link", name="Next page").click()
    expect(page.get_by_role("status").filter(has_text="rollouts")).to_contain_text("51 to")
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("k")
    focused = page.locator(".rollouts-list a:focus")
    name = focused.inner_text()
    assert name == names(page)[1]
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text(name)
    shown(page, "rollouts")
    page.keyboard.press("g")
    expect(page.locator("h1")).to_contain_text("Group")
    shown(page, "rollouts")
    page.keyboard.press("Escape")
    expect(page.get_by_role("status").filter(has_text="rollouts")).to_contain_text("51 to")
    expect(page.locator(".rollouts-list a:focus")).to_have_text(name)


def test_a_group_side_by_side(page: Page, odd: Dash) -> None:
    page.goto(odd.url("rollouts", run="odd", show="group", at="train:1:0"))
    shown(page, "rollouts")
    cards = page.locator(".sibling")
    assert [text.split()[1] for text in cards.locator("p:has-text('reward')").all_inner_texts()] == [
        "1",
        "0.55",
        "0.1",
        "–",
    ]
    expect(cards.last).to_contain_text("timeout")
    row = page.locator(".apart tr", has_text="count").first
    assert row.locator("td").all_inner_texts() == ["1\n+0.5", "0.5\n±0", "0\n−0.5", "–"]
    expect(page.locator(".apart tr", has_text="format_boxed")).to_contain_text("all alike")
    boxes = [card.bounding_box() for card in cards.all()]
    assert len({box["y"] for box in boxes if box}) == 1  # side by side


def test_one_sample_through_the_steps(page: Page, odd: Dash) -> None:
    page.goto(odd.url("rollouts", run="odd", show="one", at="train:1:1"))
    shown(page, "rollouts")
    page.keyboard.press("s")
    expect(page.locator("h1")).to_have_text("counting/shapes/0")
    shown(page, "rollouts")
    rows = page.locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[:3] for row in rows] == [
        ["0", "eval-before", "#0"], *(["1", "train", f"#{n}"] for n in range(4)), ["2", "train", "#0"], ["3", "eval-after", "#0"],
    ]  # fmt: skip
    assert page.locator(".legend li").all_inner_texts() == ["eval-before", "train", "eval-after"]
    page.get_by_role("link", name="As a list").click()
    expect(page.get_by_role("status").filter(has_text="rollouts")).to_have_text("1 to 7 of 7 rollouts")


def test_the_list_is_as_it_was_after_a_look_at_the_sample(page: Page, odd: Dash) -> None:
    page.goto(odd.url("rollouts", run="odd", reward_max="0.2", order="reward"))
    shown(page, "rollouts")
    before = names(page)
    page.get_by_role("link", name="counting/shapes/0 #0").click()
    expect(page.locator("h1")).to_have_text("counting/shapes/0 #0")
    shown(page, "rollouts")
    page.keyboard.press("s")
    expect(page.locator("h1")).to_have_text("counting/shapes/0")
    shown(page, "rollouts")
    page.keyboard.press("Escape")
    expect(page.locator(".rollouts-list a:focus")).to_have_text("counting/shapes/0 #0")
    assert names(page) == before
    assert page.get_by_label("reward to").input_value() == "0.2"


def test_before_and_after(page: Page, odd: Dash) -> None:
    page.goto(odd.url("rollouts", run="odd"))
    shown(page, "rollouts")
    page.get_by_role("link", name="Before and after").click()
    pairs = page.locator(".pair")
    expect(pairs).to_have_count(7)
    page.get_by_label("show").select_option("improved")
    expect(pairs).to_have_count(2)
    assert [text.split(" · ")[1].split()[0] for text in pairs.locator("h2").all_inner_texts()] == [
        "counting/shapes/2",
        "counting/shapes/3",
    ]
    assert pairs.first.locator("pre").all_inner_texts() == ["\\boxed{7}", "\\boxed{3}"]
    page.get_by_label("show").select_option("regressed")
    expect(pairs).to_have_count(1)
    page.get_by_label("show").select_option("")
    page.get_by_label("source").select_option("grounding/frames")
    expect(pairs).to_have_count(1)
    expect(pairs.locator("g.true")).to_have_count(2)  # the true box in both pictures
    expect(pairs.locator("g.answered")).to_have_count(2)


def test_text_of_a_model_is_text(page: Page, odd: Dash) -> None:
    one(page, odd, f"evil {EVIL}")
    expect(page.locator("pre", has_text="window.broken = 1").last).to_be_visible()
    shown_text = page.locator("#content").inner_text()
    assert "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>" in shown_text
    assert "\u202e" not in page.locator("#content").inner_text()
    assert "U+202E" in shown_text
    page.goto(odd.url("rollouts", run="odd", step="1"))
    shown(page, "rollouts")
    page.get_by_label("source").select_option(f"hostile/{EVIL}")
    expect(page.locator(".rollouts-list a[data-item]")).to_have_count(1)
    page.goto(odd.url("matrix", run="odd"))
    shown(page, "matrix")
    assert page.evaluate("window.broken") is None


def test_a_long_answer_is_cut_until_it_is_asked_for(page: Page, odd: Dash) -> None:
    one(page, odd, "long")
    text = page.get_by_role("region", name="assistant").locator("pre")
    assert len(text.inner_text()) <= 20_000
    page.get_by_role("button", name="Show the rest").click()
    page.wait_for_function(
        "n => [...document.querySelectorAll('pre')].some(pre => pre.textContent.length === n)", arg=len(LONG)
    )


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ("nan", ["Reward NaN", "count\tNaN"]),
        ("unparsed", ["✗ wrong (unparsed)", "unparsed"]),
        ("placed", ["imitation", "trained as\nimitation"]),
        ("long", ["not in the loss and baseline: overlong", "reason\noverlong"]),
    ],
)
def test_what_is_odd_is_said(page: Page, odd: Dash, sample: str, says: list[str]) -> None:
    one(page, odd, sample)
    text = page.locator("#content").inner_text()
    for words in says:
        assert words in text, text


def test_a_damaged_file_is_named_and_the_rest_shown(page: Page, odd: Dash) -> None:
    page.goto(odd.url("rollouts", run="odd"))
    shown(page, "rollouts")
    expect(page.locator(".note.bad")).to_contain_text(re.compile(r"rollouts/train/00000002.*\.parquet"))
    assert len(names(page)) == 23


def test_a_step_that_was_not_kept_leads_to_the_nearest(page: Page, odd: Dash) -> None:
    page.goto(odd.url("rollouts", run="odd", step="9"))
    shown(page, "rollouts")
    expect(page.locator(".note")).to_contain_text("The rollouts of step 9 were not kept")
    page.get_by_role("link", name="step 3").click()
    expect(page.locator(".rollouts-list a[data-item]").first).to_be_visible()
    page.goto(odd.url("rollouts", run="odd", step="3x"))
    expect(page.get_by_role("alert")).to_contain_text("“3x” is not a step or a range of steps")


def test_conversation_tools_and_tokens(page: Page, odd: Dash) -> None:
    one(page, odd, "crop", step=3)
    turns = page.locator("section.turn")
    assert [turn.locator("h3").inner_text() for turn in turns.all()] == [
        "system", "user", "assistant", "call zoom ✓ turn 0", "tool", "tool", "assistant", "call search ✗ failed turn 1",
    ]  # fmt: skip
    expect(turns.nth(1).locator("img")).to_have_count(1)  # between the words
    assert [pre.strip() for pre in turns.nth(1).locator("pre").all_inner_texts()] == [
        "Before",
        "after: what is it?",
    ]
    expect(page.locator(".spoken .gallery img")).to_have_count(1)  # the one that the tool showed
    expect(turns.nth(7)).to_contain_text("✗ failed")
    expect(turns.nth(7)).to_contain_text("no <b>index</b>")
    expect(page.get_by_role("region", name="Sampling")).to_contain_text("found at decision 7: 0.25")

    expect(page.locator(".note")).to_have_count(0)  # nothing is missing
    reading = page.locator(".token-reading")
    page.locator(".tk", has_text=" cat").hover()
    expect(reading).to_contain_text("log-prob -5 (probability 0.00673795) · advantage 0.714286")
    page.locator(".spoken").focus()
    page.keyboard.press("Home")
    expect(reading).to_contain_text('" zoom" · token 100 · decision 0 · log-prob -0.001')
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(reading).to_contain_text("placed by the tool")
    expect(page.locator(".tk.forced")).to_have_text("a")
    likely, unlikely = (page.locator(".tk", has_text=text).first for text in (" zoom", " cat"))
    ground = "element => getComputedStyle(element).backgroundColor"
    assert likely.evaluate(ground) == "rgba(0, 0, 0, 0)"
    assert unlikely.evaluate(ground) != "rgba(0, 0, 0, 0)"
    page.get_by_label("advantage").check()
    assert likely.evaluate(ground) != unlikely.evaluate(ground)  # of opposite sign


def test_tokens_without_their_text_fall_back_to_the_answer(page: Page, odd: Dash) -> None:
    one(page, odd, "unparsed")
    expect(page.get_by_text("the run did not keep the text of its tokens")).to_be_visible()
    expect(page.get_by_role("region", name="assistant")).to_contain_text("no box")


def test_rollouts_appear_while_they_are_written(page: Page, tmp_path: Path) -> None:
    """Without a reload, under the eyes of the reader; the focus stays where it was."""
    with Store(tmp_path / "live") as store, serving(tmp_path) as running:
        log(store, 1, "train", [make_scored(0.5, make_sample(1), rank=1)])
        page.goto(running.url("rollouts", run="live"))
        shown(page, "rollouts")
        assert len(names(page)) == 1
        page.keyboard.press("j")
        log(store, 2, "train", [make_scored(1.0, make_sample(2), text="the second")])
        expect(page.locator(".rollouts-list a[data-item]")).to_have_count(2)
        expect(page.locator(".rollouts-list a:focus")).to_have_text("counting/shapes/1 #1")
        page.goto(running.url("matrix", run="live"))
        shown(page, "matrix")
        log(store, 3, "train", [make_scored(0.25, make_sample(3))])
        cell = page.locator(".matrix td").nth(
            page.locator(".matrix thead button").all_inner_texts().index("accuracy")
        )
        expect(cell.locator("a")).to_have_attribute("title", re.compile("0.25 at step 3"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_finding_of_axe_in_the_pages_of_rollouts(page: Page, odd: Dash, theme: str) -> None:
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    for at, show in (("train:3:12", "one"), ("train:3:8", "one"), ("train:1:4", "group"), ("", "pairs")):
        page.goto(odd.url("rollouts", run="odd", show=show, at=at))
        shown(page, "rollouts")
        if at == "train:3:12":
            page.get_by_label("advantage").check()
        found = Axe().run(page).response["violations"]
        serious = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, (at, show, serious)
