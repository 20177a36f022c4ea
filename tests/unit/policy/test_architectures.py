"""Architectures beyond those that everything runs on: relatives that work, and attention that cannot be given a mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from triune.core.errors import RecipeError
from triune.policy.language import LanguageFamily
from triune.policy.options import LanguageOptions
from triune.testing.architectures import (
    LLAVA_CHAT,
    QWEN_CHAT,
    TEXT,
    VISION,
    Built,
    llava,
    qwen_parts,
    tokenizer_with,
    vocabulary,
)
from triune.testing.models import demand, ragged, talker, trajectories

CLIP = {"model_type": "clip_vision_model", **VISION, "image_size": 24, "patch_size": 8}


def qwen2() -> Built:
    processor, ids = qwen_parts(transformers.Qwen2VLProcessor, QWEN_CHAT)
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    vision = {
        "depth": 2, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    text = {**TEXT, **vocabulary(processor.tokenizer), "rope_parameters": rope}
    config = transformers.Qwen2VLConfig(
        **ids, vision_config=vision, text_config=text, tie_word_embeddings=False
    )
    return transformers.Qwen2VLForConditionalGeneration(config), processor


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
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_grid_pinpoints=grid, vision_config=CLIP,
        text_config={"model_type": "llama", **TEXT, **vocabulary(tokenizer)}, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlavaNextForConditionalGeneration(config), processor


def sliding_llava(window: int = 16) -> Built:
    """A language model with sliding windows that makes its masks itself and takes none."""
    tokenizer, (_, processor) = tokenizer_with(), llava(0)
    config = transformers.LlavaConfig(
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), tie_word_embeddings=False, vision_config=CLIP,
        text_config={"model_type": "mistral", **TEXT, **vocabulary(tokenizer), "sliding_window": window},
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config), processor


def family(build: Any, **options: Any) -> LanguageFamily:
    torch.manual_seed(0)
    model, processor = build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(5.0)
    chosen = LanguageOptions(attention="eager", **options)
    model.set_attn_implementation(chosen.attention)
    return LanguageFamily(model, processor, chosen)


@pytest.mark.parametrize("build", [qwen2, llava_next, sliding_llava])
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


def test_attention_that_takes_no_mask_gets_a_row_per_rollout() -> None:
    made = family(sliding_llava, layout="shared")
    assert not made.packs
    assert "16 tokens back" in made.attends.why
    samples = ragged()
    made.begin_step(samples)
    rollouts = trajectories(talker(made).generate(samples, demand()))
    assert made.pack(rollouts).payload.rows.ids.shape[0] == len(rollouts)
    wide = family(lambda: sliding_llava(1024))
    assert wide.packs
    wide.begin_step(samples)
    assert wide.pack(trajectories(talker(wide).generate(samples, demand()))).payload.rows.ids.shape[0] < len(
        rollouts
    )


def test_layers_that_do_not_attend_are_refused() -> None:
    model, processor = llava(0)
    model.config.text_config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(RecipeError, match="linear_attention"):
        LanguageFamily(model, processor, LanguageOptions())
