"""Processors from folders: whole, without the video half that needs torchvision, and in parts that do not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.processing_utils import ProcessorMixin

from triune.core.errors import RecipeError
from triune.policy.options import LanguageOptions
from triune.policy.processor import load_processor
from triune.testing.models import TINY, picture, sample, write

kinds = pytest.mark.parametrize("kind", sorted(TINY))


@kinds
def test_a_folder_is_loaded_and_saved_back_in_every_file(kind: str, tmp_path: Path) -> None:
    """Nothing that transformers would read with torchvision is lost: the files are those that were loaded."""
    folder = write(kind, tmp_path / "a")
    family = LanguageOptions(path=str(folder)).build()
    family.save(tmp_path / "b")
    for name in ("processor_config.json", "chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert (folder / name).read_text() == (tmp_path / "b" / name).read_text(), name
    declared = json.loads((folder / "processor_config.json").read_text())["processor_class"]
    assert type(family.processor).__name__ == declared
    assert isinstance(family.processor, ProcessorMixin)
    again = LanguageOptions(path=str(tmp_path / "b")).build()
    one = sample("a", picture(40, 24))
    assert family.prompt(one).ids.tolist() == again.prompt(one).ids.tolist()


def test_the_layout_of_released_qwen_checkpoints(tmp_path: Path) -> None:
    """preprocessor_config.json with min_pixels and max_pixels, and the template in a JSON file."""
    folder = write("qwen", tmp_path)
    whole = json.loads((folder / "processor_config.json").read_text())
    images = whole["image_processor"]
    size = images.pop("size")
    images |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    images["processor_class"] = whole["processor_class"]
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (folder / "processor_config.json").unlink()
    (folder / "chat_template.jinja").unlink()
    processor = load_processor(str(folder))
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert processor.chat_template == template
    assert dict(processor.image_processor.size) == size
    processor.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "processor_config.json").read_text())
    assert saved["image_processor"]["size"] == size


@pytest.mark.parametrize("kind", ["llava", "qwen"])
@pytest.mark.parametrize(
    "missing", ["config.json", "processor_config.json", "tokenizer*", "chat_template.jinja"]
)
def test_a_folder_that_lacks_a_part_says_what_to_copy(kind: str, missing: str, tmp_path: Path) -> None:
    folder = write(kind, tmp_path)
    for file in list(folder.glob(missing)):
        file.unlink()
    with pytest.raises(RecipeError, match=rf"policy\.path '{folder}'.*") as found:
        LanguageOptions(path=str(folder)).build()
    assert "chat_template.jinja" in str(found.value)
    assert "copy what is missing" in str(found.value)
