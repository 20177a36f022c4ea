"""HTML that is escaped by construction: whatever is not `Markup` is text, wherever it came from."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = {"meta", "img", "br", "hr", "rect", "circle", "line", "polyline", "polygon", "path", "image", "use"}

Child = object
"""Markup, None (nothing), or anything else: its text, escaped. Lists and generators of these are flattened."""


class Markup(str):
    """A string that is HTML already. Only `tag` makes it, from parts that are escaped or Markup."""

    __slots__ = ()


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """One element. Attributes: `class_` for class, `_` for `-`, None or False leaves one out, True gives a bare one."""
    shown = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        key = "viewBox" if key == "viewbox" else key
        shown.append(f" {key}" if value is True else f' {key}="{_escape(value)}"')
    if name in _VOID and not children:
        return Markup(f"<{name}{''.join(shown)}/>")
    return Markup(f"<{name}{''.join(shown)}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """The children one after another."""
    return Markup("".join(_render(child) for child in children))


def _render(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return str(child)
    if isinstance(child, Iterable) and not isinstance(child, str):
        return join(child)
    return _escape(child)


def _escape(value: object) -> str:
    # Control characters are not allowed in HTML even when escaped.
    text = "".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return html.escape(text, quote=True)
