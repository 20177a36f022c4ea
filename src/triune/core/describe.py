"""What the keys of a recipe mean: help and annotated recipes, generated from the types that validate them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from triune.core.plugin import PlugIn, model_in, section
from triune.core.recipe import Recipe


@dataclass(frozen=True)
class Leaf:
    """One key of the recipe: dotted path, type, default (as text, 'required' where there is none), description."""

    key: str
    type: str
    default: str
    doc: str


def leaves(model: type[BaseModel] = Recipe, prefix: str = "", plugins: bool = False) -> list[Leaf]:
    """Every key of the core in order; a plug-in field counts as one, or with `plugins` is followed by the keys of
    each of its kinds."""
    found: list[Leaf] = []
    for name, info in model.model_fields.items():
        within = (mark for arg in get_args(info.annotation) for mark in getattr(arg, "__metadata__", ()))
        marks = [mark for mark in (*info.metadata, *within) if isinstance(mark, PlugIn)]
        inner = None if marks else model_in(info.annotation)
        if inner is not None and not any(field.description for field in inner.model_fields.values()):
            inner = None  # a value with a shape of its own (a Check, a schedule), not a section of keys
        many = "[]" if inner is not None and get_origin(info.annotation) is tuple else ""
        key = f"{prefix}{name}{many}"
        if inner is not None:
            found += leaves(inner, key + ".", plugins)
            continue
        default = "required" if info.is_required() else _flow(info.get_default(call_default_factory=True))
        if marks:
            many = "list of " if get_origin(info.annotation) is tuple else ""
            kinds = ", ".join(marks[0].options()) if plugins else ""
            found.append(
                Leaf(
                    key,
                    f"{many}plug-in",
                    default,
                    (info.description or name) + (f": {kinds}" if kinds else ""),
                )
            )
            if plugins:
                for kind in marks[0].options():
                    options = marks[0].options()[kind]
                    found += [
                        leaf for leaf in leaves(options, f"{key}({kind}).") if not leaf.key.endswith(").kind")
                    ]
            continue
        found.append(Leaf(key, type_name(info.annotation), default, info.description or ""))
    return found


def type_name(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(repr, args))
    if origin is Annotated:
        return type_name(args[0])
    if origin in (Union, UnionType):
        return " | ".join(map(type_name, args))
    if origin is tuple and args[-1] is not ...:
        return f"[{', '.join(map(type_name, args))}]"
    if origin is tuple:
        return f"list of {type_name(args[0])}"
    if annotation is type(None):
        return "null"
    return annotation.__name__ if isinstance(annotation, type) and not args else str(annotation)


def annotated(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every key with its meaning as a comment."""
    return "\n".join(_annotated(recipe.dump(), type(recipe), ""))


def _annotated(
    values: Mapping[str, Any], model: type[BaseModel] | None, indent: str, comments: bool = True
) -> Iterator[str]:
    for name, value in values.items():
        info = model.model_fields.get(name) if model else None
        inner = section(info, value) if info else None
        comment = f"  # {info.description}" if comments and info and info.description else ""
        if isinstance(value, dict) and value and inner:
            yield f"{indent}{name}:{comment}"
            yield from _annotated(value, inner, indent + "  ", comments)
        elif isinstance(value, list) and inner and value:
            yield f"{indent}{name}:{comment}"
            for i, item in enumerate(value):
                # The meaning of an item's keys is said once.
                first, *rest = _annotated(item, inner, indent + "    ", comments and i == 0)
                yield f"{indent}  - {first.strip()}"
                yield from rest
        else:
            yield f"{indent}{name}: {_flow(value)}{comment}"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    plain = to_jsonable_python(value)
    return (
        yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10_000)
        .removesuffix("...\n")
        .strip()
    )
