"""Tiny random models of real vision-language architectures with transformers' own model and processor code.

Configurations are small, pictures a few tokens; nothing else is simplified: chat templates do what the released models'
do, tokenizers are byte-level BPE with the models' special tokens (nano's words, or merges trained here), and everything
that makes an architecture different is on: tiles, window attention, three rotary axes, features for inner layers
(DeepStack), learned newlines and unpadding, sliding windows, pictures whose tokens see each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from triune.policy.nano.architecture import build_model, build_processor
from triune.policy.nano.tokenizer import build_tokenizer
from triune.policy.processor import still

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
_QWEN_BLOCKS = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for b in m['content'] %}"
    "{% if b['type'] == 'image' or 'image' in b %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif b['type'] == 'video' or 'video' in b %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in b %}{{ b['text'] }}{% endif %}{% endfor %}{% endif %}"
)
_QWEN_TURN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
QWEN_CHAT = (  # a system turn of its own, unless there is one
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] + '\n' }}" + _QWEN_BLOCKS + "<|im_end|>\n{% endfor %}" + _QWEN_TURN
)
_QWEN3_CHAT = (  # no system turn; what tools say is a user's turn between tags, one turn for several in a row
    "{% for m in messages %}{% if m['role'] == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n' }}<tool_response>{{ '\n' }}" + _QWEN_BLOCKS + "{{ '\n' }}</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ m['role'] }}\n"
    + _QWEN_BLOCKS
    + "<|im_end|>\n{% endif %}{% endfor %}"
    + _QWEN_TURN
)
_INTERNVL_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for b in m['content'] %}{% if b['type'] == 'image' %}<IMG_CONTEXT>\n{% elif b['type'] == 'video' %}<video>\n"
    "{% elif b['type'] == 'text' %}{{ b['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    + _QWEN_TURN
)
_ONEVISION_CHAT = (  # pictures first, wherever they stand in the message
    "{% for m in messages %}<|im_start|>{{ m['role'] }} "
    "{% for b in m['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
    "{% for b in m['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + b['text'] }}{% endfor %}<|im_end|>"
    "{% endfor %}" + _QWEN_TURN
)
_IDEFICS_CHAT = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for b in m['content'] %}{% if b['type'] == 'text' %}{{ b['text'] }}"
    "{% elif b['type'] == 'image' %}<image>{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_GEMMA_CHAT = (  # users and the model alternate; a system message becomes the beginning of the user's
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set lead = messages[0]['content'][0]['text'] + '\n\n' %}"
    "{% else %}{% set rest = messages %}{% set lead = '' %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<start_of_turn>{% if m['role'] == 'assistant' %}model{% else %}{{ m['role'] }}{% endif %}{{ '\n' }}"
    "{% if loop.first %}{{ lead }}{% endif %}{% for b in m['content'] %}"
    "{% if b['type'] == 'image' %}<start_of_image>{% else %}{{ b['text'] | trim }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


# -- tokenizers --------------------------------------------------------------------------------------------------------


def tokenizer_with(*special: str, eos: str = "<|end|>") -> PreTrainedTokenizerFast:
    """nano's words with more special tokens."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer().backend_tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.eos_token = eos
    return tokenizer


@functools.cache
def _trained(words: bool) -> str:
    """A byte-level BPE tokenizer with a few merges; `words`: none of them across words and lines (Gemma's has such)."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    core.decoder = decoders.ByteLevel()
    lines = [
        "How many circles? Which is the tallest?",
        "user\n\n\nRead the number\n\n",
        "assistant\nmodel\n",
    ] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=310, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    core.train_from_iterator(lines, trainer)
    return str(core.to_str())


def trained_tokenizer(
    *special: str, eos: str, pad: str, words: bool = True, bos: str | None = None, **named: str
) -> PreTrainedTokenizerFast:
    """A tokenizer trained on a few lines, with special tokens; `named` ones become attributes, as processors need."""
    core = Tokenizer.from_str(_trained(words))
    core.add_special_tokens([*(t for t in (bos, pad) if t), *special, *named.values()])
    fields = {"bos_token": bos} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos, pad_token=pad, extra_special_tokens=named, **fields
    )


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What a text config has to know about it."""
    # Padded to a round number as real checkpoints are: the last rows of the matrix are nobody's token.
    size = 16 * (len(tokenizer) // 16 + 1)
    return {
        "vocab_size": size, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }  # fmt: skip


def qwen_tokenizer(*more: str, **named: Any) -> PreTrainedTokenizerFast:
    """The special tokens of Qwen's models, which InternVL and LLaVA-OneVision build on."""
    return trained_tokenizer(
        "<|im_start|>", "<|im_end|>", *more, eos="<|im_end|>", pad="<|endoftext|>", **named
    )


# -- models ------------------------------------------------------------------------------------------------------------


def nano(seed: int = 0) -> Built:
    """The embedded model's own architecture and processor, untaught."""
    processor = build_processor()
    return build_model(processor.tokenizer, seed), processor


_TILED = {
    "size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 16}, "do_image_splitting": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip
_TAGS = [f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)]


def _tiled_fields(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"), "scale_factor": 2, "tie_word_embeddings": False,
        "vision_config": {**VISION, "image_size": 16, "patch_size": 4},
        "text_config": {"model_type": "llama", **TEXT, **vocabulary(tokenizer)},
    }  # fmt: skip


def tiles(seed: int = 0) -> Built:
    """Idefics3 with image splitting: a picture becomes rows x columns of tiles and a global view."""
    tokenizer = tokenizer_with("<|im_start|>", *_TAGS, eos="<end_of_utterance>")
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(**_TILED), tokenizer, image_seq_len=4, chat_template=_IDEFICS_CHAT
    )
    torch.manual_seed(seed)
    return Idefics3ForConditionalGeneration(Idefics3Config(**_tiled_fields(tokenizer))), processor


def smolvlm(seed: int = 0) -> Built:
    """SmolVLM2: the same layout under classes of its own, with a video half."""
    tokenizer = trained_tokenizer(
        "<|im_start|>", "<fake_token_around_image>", "<image>", "<global-img>", *_TAGS, eos="<end_of_utterance>",
        pad="<|endoftext|>",
    )  # fmt: skip
    video = {"video_processor_type": "SmolVLMVideoProcessor", "max_image_size": {"longest_edge": 16}}
    processor = still(
        SmolVLMProcessor, SmolVLMImageProcessorPil(**_TILED), tokenizer, video, image_seq_len=4,
        chat_template=_IDEFICS_CHAT,
    )  # fmt: skip
    torch.manual_seed(seed)
    return SmolVLMForConditionalGeneration(SmolVLMConfig(**_tiled_fields(tokenizer))), processor


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


def onevision(seed: int = 0) -> Built:
    """LLaVA-OneVision: SigLIP, tiles of one of several shapes, unpadded, interpolated where there are too many, with a
    learned newline after every row; one view only of each picture where a prompt has several."""
    tokenizer = qwen_tokenizer("<image>", "<video>")
    grid = [[24, 48], [48, 24], [48, 48], [24, 72]]
    pictures = LlavaOnevisionImageProcessorPil(size={"height": 24, "width": 24}, image_grid_pinpoints=grid)
    video = {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": {"height": 24, "width": 24}}
    processor = still(
        LlavaOnevisionProcessor, pictures, tokenizer, video, num_image_tokens=9, vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2", chat_template=_ONEVISION_CHAT,
    )  # fmt: skip
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    config = LlavaOnevisionConfig(
        image_token_index=token("<image>"), video_token_index=token("<video>"), image_grid_pinpoints=grid,
        vision_aspect_ratio="anyres_max_2", tie_word_embeddings=False,
        vision_config={
            "model_type": "siglip_vision_model", **VISION, "image_size": 24, "patch_size": 8, "vision_use_head": False,
        },
        text_config={"model_type": "qwen2", **TEXT, **vocabulary(tokenizer)},
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config), processor


def internvl(seed: int = 0) -> Built:
    """InternVL3: as many tiles as fit the picture's shape and a thumbnail, pixel shuffle, Qwen2."""
    tokenizer = qwen_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    pictures = GotOcr2ImageProcessorPil(
        size={"height": 16, "width": 16}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    video = {"video_processor_type": "InternVLVideoProcessor", "size": {"height": 16, "width": 16}}
    processor = still(
        InternVLProcessor, pictures, tokenizer, video, image_seq_length=4, chat_template=_INTERNVL_CHAT
    )
    torch.manual_seed(seed)
    config = InternVLConfig(
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4, tie_word_embeddings=False,
        vision_config={**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
        text_config={"model_type": "qwen2", **TEXT, **vocabulary(tokenizer)},
    )  # fmt: skip
    return InternVLForConditionalGeneration(config), processor


def qwen_parts(kind: type[Any], template: str) -> tuple[Any, dict[str, Any]]:
    """A processor of Qwen2-VL's line, 1 visual token per 8 x 8 pixels of the resized picture; ids of its config."""
    tokenizer = qwen_tokenizer(
        "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"
    )
    size = {"shortest_edge": 16 * 16, "longest_edge": 40 * 40}
    patches = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    video = {"video_processor_type": "Qwen2VLVideoProcessor", **patches, "size": size}
    processor = still(
        kind, Qwen2VLImageProcessorPil(size=size, **patches), tokenizer, video, chat_template=template
    )
    names = ("image", "video", "vision_start", "vision_end")
    tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    ids = {f"{n}_token_id": tokenizer.convert_tokens_to_ids(t) for n, t in zip(names, tokens, strict=True)}
    return processor, ids


def qwen(seed: int = 0) -> Built:
    """Qwen2.5-VL: positions of time, height and width, window attention, a connector inside the tower."""
    processor, ids = qwen_parts(Qwen2_5_VLProcessor, QWEN_CHAT)
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        **ids, tie_word_embeddings=False,
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        },
        text_config={
            **TEXT, **vocabulary(processor.tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        },
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3(seed: int = 0) -> Built:
    """Qwen3-VL: interleaved rotary axes, and features of two of the tower's layers for the first two decoder layers."""
    processor, ids = qwen_parts(Qwen3VLProcessor, _QWEN3_CHAT)
    torch.manual_seed(seed)
    config = Qwen3VLConfig(
        **ids, tie_word_embeddings=False,
        vision_config={
            "depth": 3, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={
            **TEXT, **vocabulary(processor.tokenizer), "num_hidden_layers": 3, "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True,
            },
        },
    )  # fmt: skip
    return Qwen3VLForConditionalGeneration(config), processor


def gemma3(seed: int = 0) -> Built:
    """Gemma 3: pictures whose tokens see each other, a layer with a sliding window, one matrix for input and output."""
    named = {
        "boi_token": "<start_of_image>",
        "image_token": "<image_soft_token>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = trained_tokenizer(
        "<eos>",
        "<start_of_turn>",
        "<end_of_turn>",
        eos="<eos>",
        pad="<pad>",
        bos="<bos>",
        words=False,
        **named,
    )
    pictures = Gemma3ImageProcessorPil(
        size={"height": 24, "width": 24}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor = Gemma3Processor(pictures, tokenizer, image_seq_length=9, chat_template=_GEMMA_CHAT)
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    config = Gemma3Config(
        **{f"{name}_index": token(text) for name, text in named.items()}, mm_tokens_per_image=9,
        vision_config={
            "model_type": "siglip_vision_model", **VISION, "image_size": 24, "patch_size": 4, "vision_use_head": False,
        },
        text_config={
            **TEXT, **vocabulary(tokenizer), "num_hidden_layers": 3, "head_dim": 16, "query_pre_attn_scalar": 16,
            "sliding_window": 12, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "tie_word_embeddings": True,
        },
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(
        model.model.multi_modal_projector.mm_input_projection_weight, std=0.1
    )  # made of zeros
    model.generation_config.eos_token_id = [token("<eos>"), token("<end_of_turn>")]
    return model, processor


TINY: Mapping[str, Callable[[int], Built]] = {
    "nano": nano, "tiles": tiles, "llava": llava, "qwen": qwen, "qwen3": qwen3, "internvl": internvl,
    "smolvlm": smolvlm, "onevision": onevision, "gemma3": gemma3,
}  # fmt: skip


def drawn(kind: str, seed: int = 0) -> Built:
    """A random model of one architecture and its processor.

    Weights are drawn wider than for training, so that log-probs depend visibly on context and pictures.
    """
    model, processor = TINY[kind](seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(2.0 if kind == "nano" else 5.0)
        norm = model.get_decoder().norm.weight
        if kind == "gemma3":  # adds one to it
            norm.fill_(5.0)
        else:
            norm.mul_(10.0 if kind == "nano" else 4.0)
    return model, processor
