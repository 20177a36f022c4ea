"""Architectures beyond the four that everything runs on: those that work, and those that must be refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from triune.core.errors import ParityError
from triune.policy.language import LanguageFamily
from triune.policy.options import LanguageOptions
from triune.testing.models import (
    LLAVA_CHAT,
    TEXT,
    VISION,
    Built,
    demand,
    qwen,
    ragged,
    talker,
    tiles,
    tokenizer_with,
    trajectories,
    vocabulary,
)

QWEN = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 2}
CLIP = {"model_type": "clip_vision_model", **VISION, "image_size": 24, "patch_size": 8}


def smolvlm() -> Built:
    model, processor = tiles(0)
    fields = model.config.to_dict()
    for name in ("model_type", "architectures", "transformers_version"):
        fields.pop(name, None)
    return transformers.SmolVLMForConditionalGeneration(transformers.SmolVLMConfig(**fields)), processor


def qwen_like(config: Any, model: Any, vision: dict[str, Any], **text: Any) -> Built:
    given, processor = qwen(0)
    ids = {
        n: getattr(given.config, n)
        for n in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    }
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    words = {**TEXT, **vocabulary(processor.tokenizer), "rope_parameters": rope, **text}
    return model(
        config(**ids, vision_config={**QWEN, **vision}, text_config=words, tie_word_embeddings=False)
    ), processor


def qwen2() -> Built:
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    return qwen_like(transformers.Qwen2VLConfig, transformers.Qwen2VLForConditionalGeneration, vision)


def qwen3() -> Built:
    vision = {
        "depth": 3, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    return qwen_like(
        transformers.Qwen3VLConfig, transformers.Qwen3VLForConditionalGeneration, vision, head_dim=16
    )


def image_token(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def llava_next() -> Built:
    tokenizer, grid = tokenizer_with(), [[24, 48], [48, 24], [48, 48]]
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=grid
    )
    processor = transformers.LlavaNextProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA_CHAT,
    )  # fmt: skip
    config = transformers.LlavaNextConfig(
        image_token_index=image_token(tokenizer, "<image>"), image_grid_pinpoints=grid, vision_config=CLIP,
        text_config={"model_type": "llama", **TEXT, **vocabulary(tokenizer)}, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlavaNextForConditionalGeneration(config), processor


def gemma3() -> Built:
    names = {"boi": "<start_of_image>", "image": "<image_soft_token>", "eoi": "<end_of_image>"}
    tokenizer = tokenizer_with(*names.values())
    for name, token in names.items():
        setattr(tokenizer, f"{name}_token", token)
        setattr(tokenizer, f"{name}_token_id", image_token(tokenizer, token))
    pictures = Gemma3ImageProcessorPil(size={"height": 24, "width": 24})
    chat = LLAVA_CHAT.replace("<image>", names["boi"])
    processor = transformers.Gemma3Processor(pictures, tokenizer, image_seq_length=9, chat_template=chat)
    config = transformers.Gemma3Config(
        **{f"{name}_token_index": image_token(tokenizer, token) for name, token in names.items()},
        mm_tokens_per_image=9,
        vision_config={
            "model_type": "siglip_vision_model", **VISION, "image_size": 24, "patch_size": 4, "vision_use_head": False,
        },
        text_config={**TEXT, **vocabulary(tokenizer), "head_dim": 16, "sliding_window": 2048},
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config), processor


def family(build: Any) -> LanguageFamily:
    torch.manual_seed(0)
    model, processor = build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(5.0)
    return LanguageFamily(model, processor, LanguageOptions(attention="eager"))


@pytest.mark.parametrize("build", [smolvlm, qwen2, llava_next])
def test_relatives_work(build: Any) -> None:
    made = family(build)
    samples = ragged()
    made.begin_step(samples)
    for one in samples:
        made.check(one)
    rollouts = trajectories(talker(made).generate(samples, demand()))
    found = made.evaluate(made.pack(rollouts)).logp
    assert (found - torch.cat([torch.tensor(t.decisions.logp) for t in rollouts])).abs().max() <= 1e-5
    held = [id(p) for part in made.modules().values() for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in made.model.parameters())
    made.modules()["vision"].requires_grad_(False)  # the connector goes on training
    made.begin_step(samples)
    for one in samples:
        made.prompt(one)
    again = made.evaluate(made.pack(rollouts)).logp
    assert (again - found).abs().max() <= 1e-5
    again.sum().backward()
    assert all(p.grad is not None for p in made.modules()["connector"].parameters())
    assert all(p.grad is None or not p.requires_grad for p in made.modules()["vision"].parameters())


@pytest.mark.parametrize("build", [qwen3, gemma3])
def test_models_that_need_more_than_embeddings_are_refused(build: Any) -> None:
    """DeepStack gives visual features to inner layers; Gemma 3 lets a picture's tokens see each other."""
    made = family(build)
    one = ragged()[3]
    made.begin_step([one])
    with pytest.raises(ParityError, match=r"'three'.*own forward pass"):
        made.check(one)
