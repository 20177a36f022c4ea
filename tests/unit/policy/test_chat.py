"""Chat templates: what an observation adds, whatever a template does to the turns before it."""

from __future__ import annotations

import numpy as np
import pytest

from triune.core.errors import MediaMismatch, RecipeError
from triune.core.sample import Message, Text
from triune.policy.chat import Chat
from triune.policy.nano.architecture import build_processor
from triune.testing.models import TINY, picture, tiny

USER = "{% if m['role'] == 'user' %}<|user|>{{ m['content'][0]['text'] }}"
SAY = "{% elif m['role'] == 'assistant' %}<|assistant|>"
TOOL = (
    "{% else %}<|tool|>{% for b in m['content'] %}{% if b['type'] == 'image' %}<image>{% else %}{{ b['text'] }}"
    "{% endif %}{% endfor %}{% endif %}"
)
END = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def chat(template: str) -> Chat:
    processor = build_processor()
    processor.chat_template = "{% for m in messages %}" + template + "{% endfor %}" + END
    return Chat(processor, ["<|end|>"])


def test_what_follows_the_stop_token_belongs_to_the_observation() -> None:
    newline = chat(USER + SAY + "{{ m['content'][0]['text'] }}<|end|>\n" + TOOL)
    assert newline.observation(["42"]) == "\n<|tool|>42<|assistant|>"
    bare = chat(USER + SAY + "{{ m['content'][0]['text'] }}" + TOOL)  # this template ends no turn
    assert bare.observation(["42", picture()]) == "<|tool|>42<image><|assistant|>"


def test_thoughts_of_earlier_turns_are_kept_whatever_the_template_does() -> None:
    """Qwen3's templates delete the thoughts of turns before the last one. Nothing is rendered again here."""
    forgetful = chat(
        USER + SAY + "{% if loop.last %}<think>{{ m['content'][0]['text'] }}</think>{% else %}"
        "{{ m['content'][0]['text'].split('</think>')[-1] }}{% endif %}<|end|>" + TOOL
    )
    with pytest.raises(RecipeError, match="rewrites earlier turns"):
        forgetful.observation(["42"])
    kept = chat(USER + SAY + "{{ m['content'][0]['text'].split('</think>')[-1] }}<|end|>" + TOOL)
    assert kept.observation(["42"]) == "<|tool|>42<|assistant|>"


def test_a_template_without_a_tool_role_speaks_as_the_user() -> None:
    both = "{% for b in m['content'] %}{% if b['type'] == 'image' %}<image>{% else %}{{ b['text'] }}{% endif %}{% endfor %}"
    refuses = chat(
        "{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% elif m['role'] == 'user' %}<|user|>"
        + both + "{% else %}<|assistant|>" + both + "<|end|>{% endif %}"
    )  # fmt: skip
    drops_pictures = chat(
        "{% if m['role'] == 'tool' %}<|tool|>{{ m['content'][0]['text'] }}{% elif m['role'] == 'user' %}<|user|>"
        + both + "{% else %}<|assistant|>" + both + "<|end|>{% endif %}"
    )  # fmt: skip
    for one in (refuses, drops_pictures):
        assert one.observation(["see", picture()]) == "<|user|>see<image><|assistant|>"
    neither = chat("{% if m['role'] != 'tool' %}{{ m['content'][0]['text'] }}{% endif %}")
    with pytest.raises(RecipeError, match="neither as tool nor as user"):
        neither.observation(["see"])


def test_placeholders_become_their_pictures() -> None:
    one = chat(USER + SAY + TOOL)
    pictures = [np.asarray(ids, np.int32) for ids in ([901, 902], [903])]
    ids, pictured, starts = one.ids("a<image>b<image>", pictures)
    a, b = (one.tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in "ab")
    assert ids.tolist() == [a, 901, 902, b, 903]
    assert pictured.tolist() == [False, True, True, False, True]
    assert starts == (1, 4)
    assert one.ids("", [])[0].tolist() == []
    for text, given in (("a", pictures[:1]), ("<image>", pictures), ("<image>", [])):
        with pytest.raises(MediaMismatch):
            one.ids(text, given)


@pytest.mark.parametrize("kind", sorted(TINY))
def test_every_tiny_template_shows_observations(kind: str) -> None:
    made = tiny(kind).chat
    assert made.observation(["see ", picture(), picture(seed=1)]).count(made.placeholder) == 2
    text = made.prompt([Message(role="user", content=(Text(text="How many?"),))])
    assert "How many?" in text
