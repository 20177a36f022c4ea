"""Every probe changes pictures and nothing else, always in the same way, and counts what it leaves out."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from triune.core.errors import RecipeError
from triune.core.sample import Check, Media, Message, Picture, Sample, Text
from triune.core.schedule import Progress
from triune.core.verdict import Outcome
from triune.evaluation.probes import NO_PICTURE, PROBES, VIDEO, look
from triune.testing.models import picture, tiny
from triune.verify.geometry import as_boxes, convert
from triune.verify.judge import Judge


def made(name: str, *media: Media, source: str = "shapes", **fields: Any) -> Sample:
    shown = [Picture(media=i, type=m.kind) for i, m in enumerate(media)]
    return Sample(
        id=name,
        source=source,
        task="counting",
        messages=(Message(role="user", content=(*shown, Text(text="How many?"))),),
        media=media,
        truth=fields.pop("truth", 3),
        checks=fields.pop("checks", (Check(verifier="count"),)),
        **fields,
    )


def film() -> Media:
    return picture(24, 24, 90).model_copy(update={"kind": "video"})


ASKED = [
    *(made(f"a{n}", picture(40 + n, 30, n)) for n in range(5)),
    *(made(f"pair{n}", picture(24, 36, 10 + n), picture(48, 20, 20 + n)) for n in range(3)),
    *(made(f"b{n}", picture(24, 24, 30 + n), source="words") for n in range(2)),
    made("text"),
    made("film", film()),
]


@pytest.mark.parametrize("name", list(PROBES))
def test_it_changes_every_picture_and_nothing_else(name: str) -> None:
    probed = look(name, ASKED)
    assert [one.id for one in probed.originals] == [one.id for one in ASKED if one.id not in ("text", "film")]
    for now, was in zip(probed.samples, probed.originals, strict=True):
        assert now.model_copy(update={"media": was.media}) == was
        assert [m.size for m in now.media] == [m.size for m in was.media]
        assert [m.image().size for m in now.media] == [m.size for m in now.media]
        assert not {m.sha256 for m in now.media} & {m.sha256 for m in was.media}
    assert probed.left_out == Counter({("shapes", NO_PICTURE): 1, ("shapes", VIDEO): 1})


@pytest.mark.parametrize("name", list(PROBES))
def test_it_is_the_same_in_any_order(name: str) -> None:
    there, back = look(name, ASKED), look(name, ASKED[::-1])
    assert {one.id: one.media for one in there.samples} == {one.id: one.media for one in back.samples}


@pytest.mark.parametrize("name", list(PROBES))
def test_nothing_to_change_is_no_error(name: str) -> None:
    assert look(name, []).samples == []
    assert look(name, [made("text")]).left_out == Counter({("shapes", NO_PICTURE): 1})


@pytest.mark.parametrize("name", list(PROBES))
@pytest.mark.parametrize("kind", ["qwen", "qwen3", "llava", "nano"])
@pytest.mark.parametrize("frame", ["pixels_original", "pixels_processed"])
def test_a_perfect_answer_still_scores_one(name: str, kind: str, frame: str) -> None:
    """Boxes mean what they meant, whichever frame the policy writes and the truth is in."""
    family = tiny(kind)
    check = Check(verifier="detection", params={"answer": "text", "iou": 0.99})
    samples = [
        made(f"{n}", picture(90 + n, 61, n), truth=[{"bbox_2d": [9, 12, 50, 55], "label": "cup"}], checks=(check,), frame=frame)
        for n in range(2)
    ]  # fmt: skip
    shown = look(name, samples).samples[0]
    outcome = Outcome(id="x#0", media=family.prompt(shown).seen, frame=family.frame)
    (box,) = convert(as_boxes([[9, 12, 50, 55]]), samples[0].frame, family.frame, outcome, 0).tolist()
    said = outcome.model_copy(update={"text": json.dumps([{"bbox_2d": box, "label": "cup"}])})
    with Judge(workers=0) as judge:
        ((verdict,),) = judge.judge_many([(samples[0], (said,))], Progress(step=1, total_steps=1))
    assert verdict.reward == pytest.approx(1.0)


def test_an_unknown_probe_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown probe 'blnd': did you mean 'blind'"):
        look("blnd", ASKED)


# -- what each of them shows -------------------------------------------------------------------------------------------


def test_blind_is_grey() -> None:
    (shown,) = look("blind", ASKED[:1]).samples
    assert shown.media[0].image().getcolors() == [(40 * 30, (127, 127, 127))]
    assert look("blind", [shown]).left_out == Counter({("shapes", "is blank already"): 1})


def test_halved_keeps_a_quarter_of_the_pixels_and_at_least_one() -> None:
    stripes = Image.new("L", (8, 4))
    stripes.putdata([255 * (x % 2) for _ in range(4) for x in range(8)])
    one = made("stripes", Media.from_image(stripes.convert("RGB")))
    (shown,) = look("halved", [one]).samples
    assert shown.media[0].image().getcolors() == [(32, (128, 128, 128))]  # finer than two pixels: gone
    wide, dot = made("wide", picture(9, 1, 0)), made("dot", picture(1, 1, 0))
    probed = look("halved", [wide, dot])
    assert [m.size for m in probed.samples[0].media] == [(9, 1)]
    assert probed.left_out == Counter({("shapes", "a single pixel"): 1})


def test_swapped_shows_pictures_of_the_same_source_that_are_not_ones_own() -> None:
    square = [made(f"s{n}", picture(24, 24, n)) for n in range(4)]
    twin = made("twin", square[0].media[0])
    probed = look("swapped", [*square, twin])
    owners = {m.sha256 for one in square for m in one.media}
    for now, was in zip(probed.samples, probed.originals, strict=True):
        assert now.media[0].sha256 in owners - {was.media[0].sha256}
    alone = look("swapped", [square[0], twin, made("other", picture(24, 24, 9), source="words")])
    assert not alone.samples
    reason = "no other sample of the source has as many pictures, all of them others"
    assert alone.left_out == Counter({("shapes", reason): 2, ("words", reason): 1})


def encoded(image: Image.Image, format: str) -> Media:
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    data = buffer.getvalue()
    return Media(data=data, sha256=hashlib.sha256(data).hexdigest(), size=image.size)


@pytest.mark.parametrize("name", list(PROBES))
def test_a_picture_is_told_by_its_pixels_and_not_by_its_file(name: str) -> None:
    plain = [encoded(Image.new("RGB", (24, 24), (127,) * 3), format) for format in ("PNG", "BMP", "TIFF")]
    asked = [made(f"plain{n}", medium) for n, medium in enumerate(plain)]
    probed = look(name, asked)
    assert not probed.samples  # nothing else could have been shown
    assert probed.left_out.total() == 3


def test_swapped_takes_the_place_of_a_picture_in_its_size() -> None:
    small, large = made("small", picture(20, 30, 1)), made("large", picture(64, 48, 2))
    shown = {one.id: one.media[0] for one in look("swapped", [small, large]).samples}
    assert (shown["small"].size, shown["large"].size) == ((20, 30), (64, 48))
