"""A checkpoint's processor: its tokenizer, its chat template and how it prepares pictures.

transformers needs torchvision for the video half of a processor (and SmolVLM's needs num2words). Videos are not read
here, so where the whole processor cannot be loaded, its own class is assembled without that half. Image processors are
then transformers' PIL ones; where torchvision is installed, transformers chooses, and mostly takes torchvision's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
from transformers.video_processing_utils import BaseVideoProcessor

from triune.core.errors import RecipeError

UNLOADABLE = (OSError, ValueError, ImportError, AttributeError, TypeError)
"""What transformers raises for a folder that lacks something, or needs a package that is not installed."""

PARTS = (
    "A vision-language model's folder needs config.json, a tokenizer (tokenizer.json, tokenizer_config.json), "
    "processor_config.json or preprocessor_config.json, and chat_template.jinja or chat_template.json: copy what is "
    "missing from the model that this one was trained from"
)


def load_processor(path: str, trust_remote_code: bool = False) -> Any:
    """The processor of a folder or hub id. Raises RecipeError saying which part is missing."""
    code = {"trust_remote_code": trust_remote_code}
    try:
        try:
            processor = AutoProcessor.from_pretrained(path, **code)
        except UNLOADABLE:
            kind = _declared(path, code)
            if kind is None or "video_processor" not in kind.get_attributes():
                raise
            processor = _assembled(kind, path, code)
    except UNLOADABLE as error:
        reason = str(error).split(". If you were trying")[0].rstrip(".")
        raise RecipeError(
            f"policy.path {path!r}: its processor cannot be loaded: {reason}. {PARTS}"
        ) from error
    # Where AutoProcessor finds a part of a processor only, it returns that part.
    if not all(hasattr(processor, part) for part in ("tokenizer", "image_processor")):
        raise RecipeError(
            f"policy.path {path!r} has no processor, but a {type(processor).__name__} alone. {PARTS}"
        )
    if not (getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)):
        raise RecipeError(f"policy.path {path!r} has no chat template. {PARTS}")
    return processor


def _assembled(kind: type[Any], path: str, code: Mapping[str, Any]) -> Any:
    """The parts of a checkpoint's processor without the video half, whose settings are kept as they are written."""
    fields, _ = kind.get_processor_dict(path)
    try:
        video, _ = BaseVideoProcessor.get_video_processor_dict(path)
    except OSError:
        video = None
    pictures, tokenizer = (auto.from_pretrained(path, **code) for auto in (AutoImageProcessor, AutoTokenizer))
    return still(kind, pictures, tokenizer, video, **_arguments(kind, fields))


def _arguments(kind: type[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a processor's settings that its class is made with, besides its parts."""
    known = set(inspect.signature(kind.__init__).parameters) - set(kind.get_attributes())
    return {k: v for k, v in fields.items() if k in known}


def still(
    kind: type[Any],
    image_processor: Any,
    tokenizer: Any,
    video: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Any:
    """A processor of transformers' class `kind` without its video half: `fields` are the class's other arguments.

    It saves itself as `kind`, with the video half's settings `video` as they were, so that nothing is lost for a reader
    that has torchvision.
    """
    whole = kind.__init__

    def made_of(self: Any, image_processor: Any, tokenizer: Any, **fields: Any) -> None:
        # transformers pairs what it is given with the parts that the signature names: the third, None, is dropped.
        whole(self, image_processor=image_processor, tokenizer=tokenizer, video_processor=None, **fields)

    def to_dict(self: Any) -> dict[str, Any]:
        return {**kind.to_dict(self), **({"video_processor": dict(video)} if video else {})}

    parameters = inspect.signature(whole).parameters
    made_of.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p for name, p in parameters.items() if name != "video_processor"]
    )
    body = {"__init__": made_of, "to_dict": to_dict, "video_processor": _NoVideo(), "__module__": __name__}
    made = type(kind.__name__, (kind,), body)
    module = sys.modules[kind.__module__]
    lacking = getattr(module, "num2words", ...) is None
    if lacking:  # spelled-out numbers of frames: SmolVLM's class refuses to be made without them
        module.num2words = _no_words  # type: ignore[attr-defined]
    try:
        return made(image_processor, tokenizer, **fields)
    finally:
        if lacking:
            module.num2words = None  # type: ignore[attr-defined]


class _NoVideo:
    """Stands where a processor looks for the defaults of its video half, and has none."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise RecipeError("this processor was loaded without its video half: videos cannot be read")


def _no_words(*args: object) -> str:
    raise RecipeError("videos cannot be read")


def _declared(path: str, code: Mapping[str, Any]) -> type[Any] | None:
    """The class that a checkpoint's processor has, by its own files or by its model's type."""
    try:
        name = ProcessorMixin.get_processor_dict(path)[0].get("processor_class")
        found: type[Any] | None = processor_class_from_name(name) if name else None
        if found is None:
            config = AutoConfig.from_pretrained(path, **code)
            found = PROCESSOR_MAPPING.get(type(config), None)
    except UNLOADABLE:
        return None
    return found


def limit_pixels(processor: Any, least: int | None, most: int | None) -> None:
    """Sets the limits that pictures are resized to. Raises RecipeError where the processor has none."""
    if least is None and most is None:
        return
    reader = processor.image_processor
    if not _by_area(reader):
        raise RecipeError(
            f"policy.min_pixels and policy.max_pixels: {type(reader).__name__} does not resize to a number of pixels (its size "
            f"is {dict(reader.size)}); leave them out, and change preprocessor_config.json if pictures shall have another size"
        )
    size = dict(reader.size)
    size |= {"shortest_edge": least} if least is not None else {}
    size |= {"longest_edge": most} if most is not None else {}
    if size["shortest_edge"] > size["longest_edge"]:
        raise RecipeError(
            f"policy.min_pixels {size['shortest_edge']} is more than policy.max_pixels {size['longest_edge']}; what a recipe "
            "leaves out is the checkpoint's own"
        )
    reader.size = type(reader.size)(**{k: v for k, v in size.items() if v is not None})


def check_sizes(processor: Any, patch: int) -> None:
    """Raises RecipeError for a processor whose pictures are smaller than the tower's patches of `patch` pixels."""
    reader = processor.image_processor
    if _by_area(reader):
        side, size = int(reader.patch_size) * int(getattr(reader, "merge_size", 1)), dict(reader.size)
        if size["longest_edge"] < side * side:
            raise RecipeError(
                f"pictures are resized to at most {size['longest_edge']} pixels, less than one visual token of {side} x {side}: "
                f"raise policy.max_pixels (or size.longest_edge in preprocessor_config.json) to {side * side} or more"
            )
        return
    for name in ("size", "crop_size", "max_image_size"):
        sides = [v for v in dict(getattr(reader, name, None) or {}).values() if v]
        if sides and min(sides) < patch:
            raise RecipeError(
                f"the processor resizes pictures to {min(sides)} pixels ({name} in its preprocessor_config.json), below "
                f"the patch size {patch} of the vision tower: nothing is left to see. Use this model's own processor"
            )


def _by_area(reader: Any) -> bool:
    """Whether an image processor's size is a number of pixels: then `shortest_edge` and `longest_edge` are no edges."""
    return {"min_pixels", "max_pixels"} <= set(getattr(reader.valid_kwargs, "__annotations__", ()))
