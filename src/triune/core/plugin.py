"""Plug-in unions: fields of a recipe whose options class is chosen by name, so that the core knows no plug-in."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from triune.core.registry import Registry


@dataclass(frozen=True)
class PlugIn:
    """Marks a field whose options class is looked up by `kind` in a registry, named 'module:NAME'.

    In a file: `{kind: NAME, option: value, ...}`, or NAME alone where every option has a default. The kind may be left out
    where there is only one. An `optional` one may be null.
    """

    registry: str
    optional: bool = False

    def options(self) -> Registry[type[BaseModel]]:
        module, _, name = self.registry.partition(":")
        registry: Registry[type[BaseModel]] = getattr(importlib.import_module(module), name)
        return registry

    def validate(self, value: Any) -> BaseModel | None:
        registry = self.options()
        if isinstance(value, BaseModel) or (value is None and self.optional):
            return value
        given = {"kind": value} if isinstance(value, str) else value
        if isinstance(given, Mapping) and "kind" not in given and len(names := list(registry)) == 1:
            given = {"kind": names[0], **given}  # there is nothing to choose
        if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str):
            raise PydanticCustomError(
                "plugin", "expected a name or {kind: NAME, ...}; {hint}", {"hint": registry.hint("")}
            )
        kind = given["kind"]
        if kind not in registry:
            raise PydanticCustomError(
                "plugin", "unknown {what} '{kind}'; {hint}",
                {"what": registry.kind, "kind": kind, "hint": registry.hint(kind)},
            )  # fmt: skip
        options = registry[kind]
        # Errors raised inside keep their own key path below this field's.
        return options.model_validate(
            given if "kind" in options.model_fields else {k: v for k, v in given.items() if k != "kind"}
        )

    def dump(self, value: BaseModel | None) -> dict[str, Any] | None:
        if value is None:
            return None
        dumped = value.model_dump(mode="json")
        if "kind" in dumped:
            return dumped
        registry = self.options()
        return {"kind": next(name for name in registry if registry[name] is type(value)), **dumped}

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(self.dump)
        )


@dataclass(frozen=True)
class Known:
    """Validates names of plug-ins of a registry, 'module:NAME', where a field says which to use and not how."""

    registry: str

    def __call__(self, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            options = PlugIn(self.registry).options()
            if name not in options:
                raise PydanticCustomError(
                    "plugin", "unknown {what} '{name}'; {hint}",
                    {"what": options.kind, "name": name, "hint": options.hint(name)},
                )  # fmt: skip
        return names


def section_at(model: type[BaseModel], values: Any, key: Sequence[str | int]) -> type[BaseModel] | None:
    """The options class that validates the mapping at this key, plug-ins included."""
    for place, part in enumerate(key):
        values = values[part]
        if isinstance(part, int):
            continue
        info = model.model_fields.get(part)
        listed = isinstance(values, list) and key[place + 1 : place + 2]  # a list of sections: the one meant
        inner = section(info, values[key[place + 1]] if listed else values) if info else None
        if inner is None:
            return None
        model = inner
    return model


def section(info: FieldInfo, values: Any) -> type[BaseModel] | None:
    """The options class behind one field, given the field's values; None where the field is not a section."""
    inside = (mark for arg in get_args(info.annotation) for mark in getattr(arg, "__metadata__", ()))
    for mark in (*info.metadata, *inside):
        if isinstance(mark, PlugIn):
            kind, options = str(values.get("kind") if isinstance(values, dict) else values), mark.options()
            return options[kind] if kind in options else None  # noqa: SIM401 (a registry has no get)
    return model_in(info.annotation)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model that an annotation names, wherever it is nested."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := model_in(arg))), None)
