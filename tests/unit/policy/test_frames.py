"""Box frames: what a policy's kind was taught, and one conversion per picture with the size after resizing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from triune.core.errors import DataError, RecipeError
from triune.core.sample import Check
from triune.core.schedule import Progress
from triune.core.verdict import Outcome
from triune.policy.options import LanguageOptions
from triune.testing.models import picture, sample, tiny, write
from triune.verify.geometry import as_boxes, convert
from triune.verify.judge import Judge


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        ("qwen", "pixels_processed"), ("qwen3", "per_mille"), ("internvl", "per_mille"), ("nano", "pixels_processed"),
        ("llava", "pixels_original"), ("gemma3", "pixels_original"),
    ],
)  # fmt: skip
def test_auto_is_what_the_kind_was_taught(kind: str, frame: str) -> None:
    assert tiny(kind).frame == frame
    assert tiny(kind, frame="unit").frame == "unit"


@pytest.mark.parametrize("kind", ["qwen", "qwen3", "internvl", "smolvlm", "onevision"])
@pytest.mark.parametrize("frame", ["auto", "pixels_processed", "unit", "per_mille", "pixels_original"])
def test_a_perfect_answer_in_the_policys_frame_scores_one_on_its_own_picture(kind: str, frame: str) -> None:
    """Three pictures of different sizes; the truth is in pixels of the stored one, by the check's `image`."""
    family = tiny(kind, frame=frame)
    shown = [picture(100, 60, 0), picture(37, 80, 1), picture(24, 24, 2)]
    one = sample("a", *shown)
    seen = family.prompt(one).seen
    with Judge(workers=0) as judge:
        for image, medium in enumerate(shown):
            width, height = medium.size
            truth = [0.1 * width, 0.2 * height, 0.55 * width, 0.9 * height]
            check = Check(verifier="box_iou", params={"image": image, "iou": 0.99, "answer": "text"})
            asked = one.model_copy(update={"truth": truth, "checks": (check,)})
            outcome = Outcome(id="a#0", media=seen, frame=family.frame)
            (answer,) = convert(as_boxes([truth]), one.frame, family.frame, outcome, image).tolist()
            if family.frame == "pixels_processed":
                sides = np.tile(seen[image].processed, 2)
                np.testing.assert_allclose(answer, sides * [0.1, 0.2, 0.55, 0.9], rtol=1e-12)
            said = outcome.model_copy(update={"text": json.dumps(answer)})
            ((verdict,),) = judge.judge_many([(asked, (said,))], Progress(step=1, total_steps=1))
            assert verdict.reward == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["qwen", "qwen3"])
def test_pixel_limits_resize_and_are_seen(kind: str, tmp_path: Path) -> None:
    folder = write(kind, tmp_path)
    sizes = {}
    for most in (1600, 256):
        family = LanguageOptions(path=str(folder), min_pixels=64, max_pixels=most).build()
        ready = family.prompt(sample("a", picture(80, 40)))
        sizes[most] = ready.seen[0].processed
        assert (ready.ids == family.image_id).sum() == np.prod(sizes[most]) / 64
        assert np.prod(sizes[most]) <= most
    assert sizes[256] < sizes[1600]


def test_processors_without_pixel_limits_say_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="CLIPImageProcessorPil does not resize to a number of pixels"):
        LanguageOptions(path=str(write("llava", tmp_path)), max_pixels=4096).build()


def test_limits_below_a_patch_or_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    folder = str(write("qwen", tmp_path))
    with pytest.raises(RecipeError, match=r"63 pixels.* 8 x 8: raise policy\.max_pixels"):
        LanguageOptions(path=folder, min_pixels=1, max_pixels=63).build()
    with pytest.raises(RecipeError, match=r"min_pixels 256 is more than policy\.max_pixels 100"):
        LanguageOptions(path=folder, max_pixels=100).build()
    with pytest.raises(ValidationError, match="min_pixels 9 is more than max_pixels 4"):
        LanguageOptions(min_pixels=9, max_pixels=4)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("llava", {"crop_size": {"height": 4, "width": 4}}),
        ("gemma3", {"size": {"height": 3, "width": 3}}),
        ("smolvlm", {"max_image_size": {"longest_edge": 2}}),
        ("qwen", {"size": {"shortest_edge": 16, "longest_edge": 32}}),
    ],
)
def test_a_processor_that_resizes_below_the_patch_size_is_refused(
    kind: str, size: dict[str, Any], tmp_path: Path
) -> None:
    file = write(kind, tmp_path) / "processor_config.json"
    declared = json.loads(file.read_text())
    declared["image_processor"] |= size
    file.write_text(json.dumps(declared))
    with pytest.raises(RecipeError, match=r"preprocessor_config\.json"):
        LanguageOptions(path=str(tmp_path)).build()


def test_a_picture_that_ends_below_a_patch_names_the_sample() -> None:
    family = tiny("llava")
    family.processor.image_processor.do_resize = family.processor.image_processor.do_center_crop = False
    with pytest.raises(DataError, match=r"'small'.*3 x 3.*policy\.min_pixels"):
        family.prompt(sample("small", picture(3, 3)))


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = str(write("llava", tmp_path))
    assert LanguageOptions(path=folder, device="cpu").build().device.type == "cpu"
    with pytest.raises(RecipeError, match="torch sees"):
        LanguageOptions(path=folder, device="cuda:77").build()
    with pytest.raises(ValidationError, match="device"):
        LanguageOptions(device="tpu")
