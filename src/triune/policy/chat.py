"""Chat templates: conversations as text with one placeholder per picture, and that text as ids.

An observation is rendered as the difference that it makes to a dialogue, so nothing the policy said is ever rendered
again: history stays the ids that were sampled, whatever a template would do to earlier turns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triune.core.errors import MediaMismatch, RecipeError
from triune.core.sample import Media, Message, Text

Content = list[dict[str, str]]

_SAID = "zzq"
"""Stands for what was said before an observation; not a word of any template."""


class Chat:
    """One model's template and tokenizer. `stops` are the texts of the tokens that end a turn."""

    def __init__(self, processor: Any, stops: Sequence[str]) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.placeholder = str(processor.image_token)
        self.placeholder_id = int(self.tokenizer.convert_tokens_to_ids(self.placeholder))
        self.stops = tuple(stops)
        special = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        self._special = re.compile(
            "|".join(re.escape(s) for s in sorted(special, key=len, reverse=True)) or "(?!)"
        )
        self._role: str | None = None

    def prompt(self, messages: Sequence[Message]) -> str:
        """The messages and the start of the policy's turn."""
        turns = [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": b.text} if isinstance(b, Text) else {"type": "image"}
                    for b in message.content
                ],
            }
            for message in messages
        ]
        return self._render(turns, more=True)

    def observation(self, blocks: Sequence[str | Media]) -> str:
        """What follows a turn that its stop token ended: the observation's message and the start of the next turn.

        Special tokens written out in its text are broken up: a tool that repeats what the policy told it must not be
        able to place pictures or end turns. Raises RecipeError when the template cannot show observations.
        """
        content = [
            {"type": "text", "text": self._special.sub(lambda m: f"{m[0][0]} {m[0][1:]}", block)}
            if isinstance(block, str)
            else {"type": "image"}
            for block in blocks
        ]
        if self._role is None:
            self._role = self._tool_role()
        return self._suffix(self._role, content)

    def ids(
        self,
        text: str,
        pictures: Sequence[NDArray[np.int32]],
        around: Sequence[tuple[str, str]] = (),
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], tuple[int, ...]]:
        """The ids of a text, i32[T], with each placeholder replaced by its picture's ids (and the plain text `around`
        them); which tokens stand for pictures, bool[T]; and where each picture begins. Raises MediaMismatch when the numbers
        differ."""
        if any(map(any, around)) and text.count(self.placeholder) == len(around):
            edges = iter(around)
            text = re.sub(re.escape(self.placeholder), lambda m: "{1}{0}{2}".format(m[0], *next(edges)), text)
        plain = np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
        places = np.flatnonzero(plain == self.placeholder_id)
        if len(places) != len(pictures):
            raise MediaMismatch(
                f"the text has {len(places)} picture placeholders ({self.placeholder}) for {len(pictures)} pictures: "
                "the template drops pictures, or the text itself contains the placeholder"
            )
        parts, marks, starts, size, before = [], [], [], 0, 0
        for place, picture in zip(places, pictures, strict=True):
            parts += [plain[before:place], picture]
            marks += [np.zeros(place - before, np.bool_), np.ones(len(picture), np.bool_)]
            starts.append(size + int(place) - before)
            size, before = starts[-1] + len(picture), int(place) + 1
        parts.append(plain[before:])
        marks.append(np.zeros(len(plain) - before, np.bool_))
        return np.concatenate(parts), np.concatenate(marks), tuple(starts)

    def turn_end(self) -> int | None:
        """The id of the special token that the template ends the policy's turns with; None if it has none."""
        try:
            said = self._render(
                [
                    {"role": role, "content": [{"type": "text", "text": _SAID}]}
                    for role in ("user", "assistant")
                ],
                more=False,
            )
        except Exception:  # templates refuse conversations by raising whatever Jinja raises
            return None
        found = self._special.match(said[said.rfind(_SAID) + len(_SAID) :].lstrip())
        return int(self.tokenizer.convert_tokens_to_ids(found[0])) if found and found[0] else None

    def _render(self, turns: list[dict[str, Any]], more: bool) -> str:
        return str(self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=more))

    def _suffix(self, role: str, content: Content) -> str:
        before = [
            {"role": "user", "content": [{"type": "text", "text": _SAID}]},
            {"role": "assistant", "content": [{"type": "text", "text": _SAID}]},
        ]
        old = self._render(before, more=False)
        new = self._render([*before, {"role": role, "content": content}], more=True)
        if not new.startswith(old):
            raise RecipeError(
                "the chat template rewrites earlier turns when an observation follows: use one that keeps them"
            )
        # Qwen's template writes a newline after the stop token; the policy did not sample it, so it belongs to what
        # follows. Without a stop token in the template, everything that it wrote counts as said.
        said = old.rfind(_SAID) + len(_SAID)
        end = max(
            (old.find(stop, said) + len(stop) for stop in self.stops if stop in old[said:]), default=len(old)
        )
        return new[end:]

    def _tool_role(self) -> str:
        """`tool` where the template shows the text and the pictures of such a message; else `user`."""
        probe: Content = [{"type": "text", "text": "observed"}, {"type": "image"}]
        for role in ("tool", "user"):
            try:
                shown = self._suffix(role, probe)
            except RecipeError:
                raise
            except Exception:  # templates refuse roles by raising whatever Jinja raises
                continue
            if "observed" in shown and shown.count(self.placeholder) == 1:
                return role
        raise RecipeError(
            "the chat template shows an observation's text or pictures neither as tool nor as user"
        )
