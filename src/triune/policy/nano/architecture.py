"""nano's architecture: the Idefics3/SmolVLM layout of transformers at 64 x 64 pixels; no model code of our own.

Patch 8 gives 64 patches; pixel shuffle by 2 leaves 16 visual tokens for the language model.
"""

from __future__ import annotations

import math

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from triune.policy.nano.tokenizer import CHAT_TEMPLATE, FENCE, IMAGE, MAX_INTEGER, build_tokenizer

SIZE, PATCH, SHUFFLE, VISUAL_TOKENS = 64, 8, 2, 16
WINDOW = 512


def build_processor() -> Idefics3Processor:
    """Tokenizer and image processor (PIL, no torchvision): one 64 x 64 picture, no tiling, values in [-1, 1]."""
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": SIZE},
        max_image_size={"longest_edge": SIZE},
        do_image_splitting=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    tokenizer = build_tokenizer()
    return Idefics3Processor(images, tokenizer, image_seq_len=VISUAL_TOKENS, chat_template=CHAT_TEMPLATE)


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Idefics3ForConditionalGeneration:
    """A freshly initialised nano: vision tower 192 x 6, language model 160 x 4, tied embeddings."""
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    config = Idefics3Config(
        image_token_id=token(IMAGE),
        tie_word_embeddings=True,
        scale_factor=SHUFFLE,
        vision_config={
            "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6,
            "image_size": SIZE, "patch_size": PATCH,
        },
        text_config={
            "model_type": "llama", "hidden_size": 160, "intermediate_size": 448, "num_hidden_layers": 4,
            "num_attention_heads": 5, "num_key_value_heads": 5, "vocab_size": 8 * math.ceil(len(tokenizer) / 8),
            "max_position_embeddings": WINDOW, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
        },
    )  # fmt: skip
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model = Idefics3ForConditionalGeneration(config)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        torch.nn.init.normal_(model.model.vision_model.embeddings.position_embedding.weight, std=0.02)
        zero = token("0")
        embeddings[zero : zero + MAX_INTEGER + 1] = _fourier(
            MAX_INTEGER + 1, embeddings.shape[1], embeddings.std()
        )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def _fourier(count: int, width: int, std: torch.Tensor) -> torch.Tensor:
    """Starting embeddings of the integers 0..count-1: random mixtures of Fourier features of their value.

    Periods of ten and below carry the last digit, longer ones the magnitude, so that near numbers and numbers
    with equal last digits start near each other.
    """
    values = torch.arange(count, dtype=torch.float32)[:, None]
    periods = torch.tensor([2.0, 5.0, 10.0, 16.0, 32.0, 64.0, 100.0, 200.0])
    angles = 2 * math.pi * values / periods
    features = torch.cat([angles.sin(), angles.cos(), values / count], 1)
    mixed = features @ torch.randn(features.shape[1], width)
    return mixed / mixed.std() * std


__all__ = ["FENCE", "build_model", "build_processor"]
