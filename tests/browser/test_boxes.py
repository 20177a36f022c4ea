"""Boxes on the screen: at the pixels where truth, answer, frame and picture say they are."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageColor
from playwright.sync_api import Locator, Page, expect

from .conftest import Dash, shown
from .odd import FRAMES, PIXELS, SIZES
from .test_rollouts import one


@pytest.mark.parametrize("shape", SIZES)
def test_boxes_are_at_the_right_pixels(page: Page, odd: Dash, shape: str) -> None:
    for frame in FRAMES:
        page.set_viewport_size({"width": 1280, "height": 900})
        one(page, odd, f"{shape}-{frame}", step=3)
        figure = page.get_by_role("region", name="Pictures").locator("figure")
        _at_their_pixels(page, figure, SIZES[shape])
        page.set_viewport_size({"width": 500, "height": 700})
        _at_their_pixels(page, figure, SIZES[shape])
        figure.get_by_role("button", name="larger").click()
        _at_their_pixels(page, figure, SIZES[shape])


def _at_their_pixels(page: Page, figure: Locator, size: tuple[int, int]) -> None:
    width, height = size
    image = figure.locator("img").bounding_box()
    assert image is not None
    assert image["width"] / image["height"] == pytest.approx(width / height, rel=0.01)
    across, down = image["width"] / width, image["height"] / height
    for kind, (x1, y1, x2, y2) in PIXELS.items():
        wanted = [
            image["x"] + x1 * across,
            image["y"] + y1 * down,
            image["x"] + x2 * across,
            image["y"] + y2 * down,
        ]
        assert _fill_box(page, kind) == pytest.approx(wanted, abs=0.51), kind


def _fill_box(page: Page, kind: str) -> list[float]:
    """Corners on the screen of the first such rectangle, without its line's width."""
    found: list[float] = page.evaluate(
        """kind => {
          const rect = document.querySelector(`.marks g.${kind} rect.mark`);
          const [box, to] = [rect.getBBox(), rect.getScreenCTM()];
          const corner = (x, y) => { const at = new DOMPoint(x, y).matrixTransform(to); return [at.x, at.y]; };
          return [...corner(box.x, box.y), ...corner(box.x + box.width, box.y + box.height)];
        }""",
        kind,
    )
    return found


def test_true_and_answered_are_switched(page: Page, odd: Dash) -> None:
    one(page, odd, "wide-unit", step=3)
    pictures = page.get_by_role("region", name="Pictures")
    for kind, label in (("true", "true: solid"), ("answered", "answered: dashed")):
        mark = pictures.locator(f"g.{kind}")
        expect(mark).to_be_visible()
        pictures.get_by_label(label).uncheck()
        expect(mark).to_be_hidden()
    listed = pictures.locator(".mark-list li")
    expect(listed).to_have_text(
        ["true 1: box [0.0125, 0.2, 0.05, 0.8]", "answered 1 it: box [0.006875, 0.1025, 0.0375, 0.9]"]
    )
    listed.first.focus()
    expect(pictures.locator("g.hot")).to_have_count(1)


def test_hundreds_of_boxes_and_those_outside(page: Page, odd: Dash) -> None:
    one(page, odd, "many", step=3)
    pictures = page.get_by_role("region", name="Pictures")
    expect(pictures.locator("g.true")).to_have_count(300)
    expect(pictures.locator("g.answered")).to_have_count(300)
    expect(pictures.locator("summary")).to_contain_text("reach outside the picture")
    canvas, svg = (pictures.locator(name).bounding_box() for name in (".canvas", ".marks"))
    assert canvas == svg


def test_a_missing_picture_is_said_in_its_place_and_the_others_are_shown(page: Page, odd: Dash) -> None:
    one(page, odd, "two", step=3)
    figures = page.get_by_role("region", name="Pictures").locator("figure")
    expect(figures).to_have_count(2)
    expect(figures.nth(0).locator("img")).to_have_count(1)
    expect(figures.nth(0).locator("g.answered")).to_have_count(1)
    expect(figures.nth(1).locator(".missing")).to_have_text("this picture is not among the run's media")
    expect(figures.nth(1).locator("g.true")).to_have_count(1)  # its size is known from the sample


def test_points_and_polygons_are_at_the_right_pixels(page: Page, odd: Dash) -> None:
    """By what is really painted: the middle of a point has its colour."""
    one(page, odd, "points", step=3)
    pictures = page.get_by_role("region", name="Pictures")
    expect(pictures.locator("g.true polygon.mark")).to_have_count(1)
    pixels = Image.open(io.BytesIO(pictures.locator(".canvas").screenshot())).convert("RGB")
    width, height = pixels.size
    for (x, y), colour in {
        (0.25, 0.25): "#0b7a43",
        (0.75, 0.25): "#c2410c",
        (0.7, 0.7): "#0b7a43",  # on the long side of the true polygon
        (0.5, 0.7): "#0b7a43",
    }.items():
        near = [
            pixels.getpixel((int(x * width) + dx, int(y * height) + dy))
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
        ]
        assert ImageColor.getrgb(colour) in near, (x, y, near)


def test_a_photograph_is_shown_as_the_policy_met_it(page: Page, odd: Dash) -> None:
    """Not turned as its EXIF note asks: boxes are in the pixels of the file."""
    one(page, odd, "turned", step=3)
    canvas = page.get_by_role("region", name="Pictures").locator(".canvas")
    canvas.locator("img").evaluate("image => image.decode()")
    pixels = Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")
    width, height = pixels.size
    for x, y, channel in ((0.2, 0.2, 0), (0.2, 0.8, 0), (0.8, 0.2, 2), (0.8, 0.8, 2)):
        found = pixels.getpixel((int(x * width), int(y * height)))
        assert isinstance(found, tuple)
        assert found[channel] > 200, (x, y, found)


def test_zoom_by_keys(page: Page, odd: Dash) -> None:
    one(page, odd, "tall-unit", step=3)
    scroll = page.locator(".picture-scroll")
    canvas = page.locator(".picture-scroll .canvas")
    before = canvas.bounding_box()
    scroll.focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    after = canvas.bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] == pytest.approx(2 * before["width"])
    page.keyboard.press("0")
    assert canvas.bounding_box() == before
    shown(page, "rollouts")
