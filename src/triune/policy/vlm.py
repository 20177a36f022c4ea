"""What has to be known about a vision-language model of transformers: its parts, its special tokens, its attention."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

from triune.core.errors import RecipeError
from triune.core.sample import Frame
from triune.policy.options import LanguageOptions, LoraOptions
from triune.policy.processor import PARTS, UNLOADABLE, check_sizes, limit_pixels, load_processor

if TYPE_CHECKING:
    from triune.policy.lora import Lora

_ADAPTER = "adapter_config.json"
_MODALITY = re.compile(r"image|img|video|vision|audio|row_\d+_col_\d+", re.IGNORECASE)
_VISION = ("vision_model", "visual", "vision_tower")
_CONNECTOR = ("connector", "multi_modal_projector", "modality_projection")


def where(options: LanguageOptions) -> str:
    """The folder or hub id that `policy.path` stands for."""
    from triune.policy.nano import WEIGHTS

    return str(WEIGHTS) if options.path == "nano" else options.path


def load(options: LanguageOptions) -> tuple[Any, Any]:
    """Model (safetensors weights) and processor; raises RecipeError for a missing path, other formats, undeclared code."""
    path = where(options)
    code = {"trust_remote_code": options.trust_remote_code}
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise RecipeError(f"policy.path {path!r} has no config.json. {PARTS}")
    try:
        with quiet():
            processor = load_processor(path, options.trust_remote_code)
            limit_pixels(processor, options.min_pixels, options.max_pixels)
            model = AutoModelForImageTextToText.from_pretrained(
                path,
                use_safetensors=True,  # pickled weights can run code when they are opened
                dtype=getattr(torch, options.dtype),
                attn_implementation=options.attention,
                **code,
            )
    except UNLOADABLE as error:
        hint = ""
        if not options.trust_remote_code and "trust_remote_code" in str(error):
            hint = ". Set policy.trust_remote_code only for a checkpoint whose code you have read"
        raise RecipeError(f"policy.path {options.path!r} cannot be loaded: {error}{hint}") from error
    # transformers makes an empty tokenizer out of a folder that has none.
    known, rows = len(processor.tokenizer), model.get_input_embeddings().weight.shape[0]
    if processor.tokenizer.convert_ids_to_tokens(image_id(model.config)) is None or known > rows:
        raise RecipeError(
            f"policy.path {path!r}: its tokenizer has {known} tokens, its model {rows} with the picture token at "
            f"{image_id(model.config)}: the tokenizer's files are missing or another model's. {PARTS}"
        )
    check_sizes(processor, patch_size(model.config))
    return model.to(device(options)), processor


def device(options: LanguageOptions) -> torch.device:
    """Where the model goes. Raises RecipeError for a GPU that is not there."""
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = torch.device(options.device)
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"policy.device {options.device}: torch sees {torch.cuda.device_count()} GPUs; use auto or cpu, or install torch "
            "for CUDA"
        )
    return wanted


_FRAMES: Mapping[str, Frame] = {
    "qwen2_vl": "per_mille",
    "qwen2_5_vl": "pixels_processed",
    "qwen3_vl": "per_mille",
    "qwen3_vl_moe": "per_mille",
    "internvl": "per_mille",
    "idefics3": "pixels_processed",
    "smolvlm": "pixels_processed",
}
"""Frames that models were taught to write boxes in: Qwen2-VL (arXiv:2409.12191) and Qwen3-VL (model card) 0..1000,
Qwen2.5-VL pixels of the resized picture (arXiv:2502.13923), InternVL 0..1000 (model card). Of Idefics3's layout no
frame is documented; nano has it, and is taught pixels of the processed picture."""


def frame(model_type: str, asked: Frame | Literal["auto"]) -> Frame:
    """The frame that a policy's boxes are in. Where none is documented, pixels of the stored picture: what a prompt can name
    without knowing the processor."""
    return _FRAMES.get(model_type, "pixels_original") if asked == "auto" else asked


def patch_size(config: Any) -> int:
    """Pixels along a side of the tower's patches; 1 if it declares none."""
    declared = getattr(getattr(config, "vision_config", None), "patch_size", 1)
    return int(max(declared) if isinstance(declared, list | tuple) else declared)


def unfold(options: LanguageOptions) -> tuple[LanguageOptions, Path | None]:
    """Of a PEFT folder: the options of the base that it names, with adapters of its shape, and the folder; of any other
    path nothing changes. Raises RecipeError when the folder does not say enough."""
    folder = Path(options.path)
    if not (folder / _ADAPTER).is_file():
        return options, None
    try:
        saved = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
        shape = {"rank": saved["r"], "alpha": saved["lora_alpha"], "targets": saved["target_modules"]}
        lora = options.lora or LoraOptions.model_validate(
            {**shape, "modules": ["vision", "connector", "language"]}
        )
        path = str(saved["base_model_name_or_path"])
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            f"policy.path {options.path!r}: {_ADAPTER} is not of a LoRA by peft: {error}"
        ) from error
    return options.model_copy(update={"path": path, "lora": lora}), folder


def adapters(model: nn.Module, options: LanguageOptions) -> Lora:
    """Puts adapters into the model; raises RecipeError when peft is not installed."""
    assert options.lora is not None
    try:
        from triune.policy.lora import Lora
    except ModuleNotFoundError as error:
        raise RecipeError(f"policy.lora needs {error.name}: pip install 'triune[lora]'") from error
    return Lora(model, options.lora, where(options))


def parts(model: Any) -> tuple[dict[str, nn.Module], list[nn.Module]]:
    """Disjoint parts (vision, connector, language) that together hold every parameter, and the connector as the model
    itself calls it: a module, and one more for each inner layer that is given features of its own (DeepStack); empty when
    there is none by a known name. Raises RecipeError without a tower by a known name."""
    inner = model.model
    tower = next((m for n in _VISION if isinstance(m := getattr(inner, n, None), nn.Module)), None)
    if tower is None:
        raise RecipeError(
            f"{type(model).__name__} has no vision tower by a name that is known here: {', '.join(_VISION)}"
        )
    vision: nn.Module = tower
    connectors = [m for n in _CONNECTOR if isinstance(m := getattr(inner, n, None), nn.Module)][:1]
    merger, deep = (getattr(tower, n, None) for n in ("merger", "deepstack_merger_list"))
    if not connectors and isinstance(merger, nn.Module):  # Qwen's sits inside the tower
        connectors = [merger, *(deep if isinstance(deep, nn.ModuleList) else ())]
        others = [m for n, m in tower.named_children() if n not in ("merger", "deepstack_merger_list")]
        vision = nn.ModuleList([*others, nn.ParameterList(tower.parameters(recurse=False))])
    language = nn.ModuleList([model.get_decoder(), model.get_output_embeddings()])
    held = {id(p) for part in (vision, language, *connectors) for p in part.parameters()}
    # LLaVA-NeXT's image_newline
    rest = nn.ParameterList([p for p in model.parameters() if id(p) not in held])
    connector = nn.ModuleList([*connectors, rest])
    return {"vision": vision, "connector": connector, "language": language}, connectors


@dataclass(frozen=True, slots=True)
class Attends:
    """How a model's layers differ from full causal attention. `window`: some layers see so many tokens back, themselves
    included (None: all see everything). `mutual`: the tokens of a picture see each other. `packs`: masks for this can be
    given to the model, so that rollouts can share a row; if not, `why`, and the model makes its own for padded rows."""

    window: int | None = None
    mutual: bool = False
    packs: bool = True
    why: str = ""


def attends(model: Any, size: int) -> Attends:
    """How a model attends within `size` tokens. Raises RecipeError for layers that do not attend at all."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or [])
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise RecipeError(
            f"this model has layers of {', '.join(sorted(others))}: only layers that attend to all tokens before, or to a "
            "sliding window of them, are supported"
        )
    sliding = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    slides = sliding is not None and sliding < size and (not kinds or "sliding_attention" in kinds)
    if model.config.model_type == "gemma3":
        return Attends(sliding if slides else None, mutual=True)
    if slides:
        return Attends(
            packs=False,
            why=f"layers see {sliding} tokens back, and no mask for that can be given to {type(model).__name__}",
        )
    return Attends()


def window(model: Any, asked: int) -> int:
    """Longest sequence in tokens: the model's own limit, or less if asked for. Raises RecipeError when neither is known."""
    limit = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)
    size = min(asked or limit, limit or asked)
    if not size:
        raise RecipeError("the model declares no window; set policy.window")
    return size


def cache_bytes(model: Any) -> int:
    """Bytes that one token of one rollout takes in the engine's cache: a key and a value per layer."""
    text = model.config.get_text_config()
    heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    size = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    return 2 * int(text.num_hidden_layers) * heads * size * int(model.dtype.itemsize)


def image_id(config: Any) -> int:
    """The id of the placeholder that visual features replace."""
    for name in ("image_token_id", "image_token_index"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise RecipeError(f"{type(config).__name__} declares no image token: not a model that sees")


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a turn."""
    declared = model.generation_config.eos_token_id
    ids = [declared] if isinstance(declared, int) else list(declared or [])
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return tuple(sorted(set(ids)))


def unsayable(model: Any, tokenizer: Any, pad_id: int) -> tuple[int, ...]:
    """Ids that a policy may never sample: every modality token, padding, and the ids that are nobody's token and only
    round up the matrix."""
    added = tokenizer.added_tokens_decoder.items()
    ids = {i for i, t in added if _MODALITY.search(t.content) and (t.special or t.content.startswith("<"))}
    config = model.config
    named = (getattr(config, n) for n in config.to_dict() if n.endswith("_token_id") and _MODALITY.search(n))
    ids |= {int(i) for i in named if isinstance(i, int)}
    ids |= {image_id(config), pad_id} - set(stop_ids(model, tokenizer))
    ids |= set(range(model.get_output_embeddings().weight.shape[0])) - set(tokenizer.get_vocab().values())
    return tuple(sorted(ids))


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with its weights in another type, as transformers loads it: buffers that are computed and not saved (the
    frequencies of rotary embeddings) keep theirs, which `Module.to` would round as well."""
    saved = model.state_dict(keep_vars=True)
    for tensor in saved.values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return model


def trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars: checkpoints are written while a run draws its own display."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
