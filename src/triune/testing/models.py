"""Random tiny vision-language models of four architectures, for tests: no network, no torchvision, milliseconds each.

They cover what differs between real models: nano (Idefics3, one tile), tiles (Idefics3 with image splitting: several
tiles per picture), llava (a CLIP tower that drops its class token, a projector), qwen (Qwen2.5-VL: three rotary axes,
window attention, as many visual tokens as the picture's size asks for, a connector inside the tower). Weights are
random, so a wrong mask, position or feature order shows at full size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from triune.core.sample import Check, EnvSpec, Media, Message, Picture, Sample, Text
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule, Trajectory
from triune.policy.language import LanguageFamily
from triune.policy.nano.architecture import build_model, build_processor
from triune.policy.nano.tokenizer import build_tokenizer
from triune.policy.options import LanguageOptions
from triune.policy.processor import still
from triune.policy.vlm import quiet
from triune.rollout.episode import Conversations
from triune.rollout.generator import Demand, Episode
from triune.rollout.native import NativeEngine

Built = tuple[Any, Any]
"""A model and its processor."""

TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

LLAVA_CHAT = (
    "{% for m in messages %}{{ m['role'] | upper }}: "
    "{% for b in m['content'] %}{% if b['type'] == 'image' %}<image>\n{% else %}{{ b['text'] }}{% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %}<|end|>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_CHAT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou see.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for b in m['content'] %}"
    "{% if b['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ b['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TILES_CHAT = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}:"
    "{% for b in m['content'] %}{% if b['type'] == 'image' %}<image>{% else %} {{ b['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tokenizer_with(*special: str, eos: str = "<|end|>") -> PreTrainedTokenizerFast:
    """nano's words with more special tokens."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer().backend_tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.eos_token = eos
    return tokenizer


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What a text config has to know about it."""
    # Padded to a round number as real checkpoints are: the last rows of the matrix are nobody's token.
    size = 16 * (len(tokenizer) // 16 + 1)
    return {
        "vocab_size": size, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }  # fmt: skip


def nano(seed: int = 0) -> Built:
    """The embedded model's own architecture and processor, untaught."""
    processor = build_processor()
    return build_model(processor.tokenizer, seed), processor


def tiles(seed: int = 0) -> Built:
    """Idefics3 (SmolVLM's layout) with image splitting: a picture becomes rows x columns of tiles and a global view."""
    tags = [f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)]
    tokenizer = tokenizer_with("<|im_start|>", *tags, eos="<end_of_utterance>")
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 48}, max_image_size={"longest_edge": 16}, do_image_splitting=True,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=_TILES_CHAT)
    torch.manual_seed(seed)
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2, tie_word_embeddings=False,
        vision_config={**VISION, "image_size": 16, "patch_size": 4},
        text_config={"model_type": "llama", **TEXT, **vocabulary(tokenizer)},
    )  # fmt: skip
    return Idefics3ForConditionalGeneration(config), processor


def llava(seed: int = 0) -> Built:
    """LLaVA: CLIP's last but one layer without its class token, two linear layers, Llama."""
    tokenizer = tokenizer_with()
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    processor = LlavaProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA_CHAT,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = LlavaConfig(
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), tie_word_embeddings=False,
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": 24, "patch_size": 8},
        text_config={"model_type": "llama", **TEXT, **vocabulary(tokenizer)},
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def qwen(seed: int = 0) -> Built:
    """Qwen2.5-VL: positions of time, height and width; 1 visual token per 8 x 8 pixels of the resized picture."""
    tokenizer = tokenizer_with(
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        eos="<|im_end|>",
    )  # fmt: skip
    pictures = Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 16 * 16, "longest_edge": 40 * 40},
    )
    video = {
        "video_processor_type": "Qwen2VLVideoProcessor", "patch_size": 4, "merge_size": 2, "temporal_patch_size": 2,
        "size": dict(pictures.size),
    }  # fmt: skip
    processor = still(Qwen2_5_VLProcessor, pictures, tokenizer, video, chat_template=QWEN_CHAT)
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        },
        text_config={
            **TEXT, **vocabulary(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        },
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config), processor


TINY: Mapping[str, Callable[[int], Built]] = {"nano": nano, "tiles": tiles, "llava": llava, "qwen": qwen}


def tiny(kind: str, seed: int = 0, **options: Any) -> LanguageFamily:
    """A language family over a random model of one architecture; `options` are LanguageOptions."""
    chosen = LanguageOptions.model_validate({"attention": "eager", **options})
    model, processor = drawn(kind, seed)
    model = model.to(getattr(torch, chosen.dtype))
    model.set_attn_implementation(chosen.attention)
    return LanguageFamily(model, processor, chosen)


def drawn(kind: str, seed: int = 0) -> Built:
    """A random model of one architecture and its processor.

    Weights are drawn wider than for training, so that log-probs depend visibly on context and pictures.
    """
    model, processor = TINY[kind](seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(2.0 if kind == "nano" else 5.0)
        model.get_decoder().norm.weight.mul_(10.0 if kind == "nano" else 4.0)
    return model, processor


def write(kind: str, folder: Path, seed: int = 0) -> Path:
    """A random model of one architecture as a Hugging Face folder: safetensors, processor, chat template, generation
    config. What `policy.path` takes. Returns the folder."""
    model, processor = drawn(kind, seed)
    with quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def picture(width: int = 24, height: int = 24, seed: int = 0) -> Media:
    """A picture of random blocks: unlike any other seed's at any resolution."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Media.from_image(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


def sample(
    name: str, *pictures: Media, text: str = "How many circle?", env: str | None = None, **fields: Any
) -> Sample:
    """A sample that shows its pictures with a few words between them, and then asks."""
    content: list[Text | Picture] = []
    for number in range(len(pictures)):
        content += [*([Text(text="Which")] if number % 2 else []), Picture(media=number)]
    return Sample(
        id=name, source="tiny", task="tiny", media=pictures, checks=(Check(verifier="answer"),),
        messages=(Message(role="user", content=(*content, Text(text=text))),),
        env=EnvSpec(name=env) if env else None, **fields,
    )  # fmt: skip


def talker(
    family: LanguageFamily, *, max_tokens: int = 12, max_rows: int = 512, **limits: int
) -> Conversations:
    """A generator over the family's native engine."""
    return Conversations(family, NativeEngine(family, max_rows), max_tokens=max_tokens, **limits)


def demand(
    rollouts: int = 3, seed: int = 0, version: int = 0, phase: Literal["train", "eval"] = "train", **rule: Any
) -> Demand:
    """A step's demand; `rule` are fields of the SamplingRule."""
    progress = Progress(step=1, total_steps=1, phase=phase)
    return Demand(rollouts, SamplingRule(**rule), seed, version, progress)


def ragged() -> list[Sample]:
    """Four samples with 0, 1, 2 and 3 pictures of different sizes, and questions of different lengths."""
    shown = [
        picture(w, h, i)
        for i, (w, h) in enumerate([(24, 24), (40, 16), (17, 50), (30, 30), (24, 24), (60, 20)])
    ]
    return [
        sample("none", text="Read the number"),
        sample("one", shown[0]),
        sample("two", *shown[1:3], text="Which is the tallest?"),
        sample("three", *shown[3:]),
    ]


def trajectories(rows: Sequence[Sequence[Episode]]) -> list[Trajectory]:
    return [episode.trajectory for row in rows for episode in row]
