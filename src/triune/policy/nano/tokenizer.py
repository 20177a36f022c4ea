"""nano's tokenizer: whole words, whole integers up to 100 and pieces of the JSON answer are single tokens.

Any other text falls back to bytes, so every string has ids and decodes to itself. Pieces are matched longest
first by the tokenizers library's added vocabulary; there is nothing to train.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, END, USER, ASSISTANT, TOOL = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|tool|>"
IMAGE, FENCE, GLOBAL, UTTERANCE = "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"
MAX_INTEGER = 100

_TAGS = ("<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}")
_JSON = (
    '[{"bbox_2d":[',
    "[]",
    "]}]",
    '],"label":"',
    '"},{"bbox_2d":[',
    '"}]',
    ',{"bbox_2d":[',
    "]}",
    '"',
    "[",
    "]",
    "{",
)
_SIGNS = (*tuple("+-,.:;?! \n()="), "0s", "1s", "2s", "3s", "4s", "5s", "6s", "7s", "8s", "9s")
_WORDS = (
    "How many", "Box every", "Box the", "Read the", "Which", "Add the", "Compute", "What is the", "How tall is the",
    " are there", " red", " green", " blue", " yellow", " shapes", " shape", " circle", " square", " triangle",
    " star", " largest", " digit", " digits", " number", " word", " up", " comes next", " cell", " A B C D",
    " differs", " side", " sinks", " left", " right", " or", " level", " temperature", " bar", " is", " tallest",
    " slice", "red", "green", "blue", "yellow", "circle", "square", "triangle", "star", "left", "right", "level",
    "digit", " the", " a", " of",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{% elif message['role'] == 'tool' %}<|tool|>"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}<image>{% else %}{{ block['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with nano's pieces added; ids of integers are consecutive from `id('0')`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    digits = [str(d) for d in range(10)]
    vocabulary = {symbol: index for index, symbol in enumerate(c for c in alphabet if c not in digits)}
    for number in range(MAX_INTEGER + 1):  # "0".."9" are bytes as well: one id for both roles
        vocabulary[str(number)] = len(vocabulary)
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, normalized=False) for t in (PAD, END, USER, ASSISTANT, TOOL)])
    core.add_special_tokens([AddedToken(t, normalized=False) for t in (IMAGE, FENCE, GLOBAL, UTTERANCE)])
    pieces = (*(str(n) for n in range(10, MAX_INTEGER + 1)), *_TAGS, *_JSON, *_SIGNS, *_WORDS)
    core.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE},
    )
