"""Recipe files: YAML with source locations, one level of inheritance, dotted overrides, errors that point at a line.

Precedence: defaults < base file < file < command line.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from triune.core.errors import RecipeError, nearest
from triune.core.plugin import section_at
from triune.core.recipe import Recipe

Key = tuple[str | int, ...]

GROUP_SIZE = "train.rollouts_per_prompt"
ALIASES = {
    "num_generations": GROUP_SIZE,  # TRL
    "train.num_generations": GROUP_SIZE,
    "rollout.n": GROUP_SIZE,  # verl
    "actor_rollout_ref.rollout.n": GROUP_SIZE,
    "n_samples_per_prompt": GROUP_SIZE,  # OpenRLHF
    "train.n_samples_per_prompt": GROUP_SIZE,
}
"""What other frameworks call our keys: accepted with a warning."""


class RecipeWarning(UserWarning):
    """Something in a recipe that works but should be written another way."""


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans: 1e-6 is a number, and on, off, yes, no are words."""


_Yaml.yaml_implicit_resolvers = {
    first: [
        (tag, rule) for tag, rule in rules if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF")
)
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$"
    ),
    list("-+0123456789."),
)


@dataclass
class Layer:
    """Values from one place, and where each key was written ('file:line', 'command line')."""

    values: dict[str, Any]
    places: dict[Key, str] = field(default_factory=dict)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, merges and validates. Raises RecipeError that names file, line, key, and what was expected."""
    layers = [read(path)]
    base = layers[0].values.pop("base", None)
    if base is not None:
        under = read(path.parent / str(base))
        if "base" in under.values:
            raise RecipeError(
                f"{path.parent / str(base)}: a base cannot have a base of its own; inherit one level only"
            )
        layers.insert(0, under)
    layers.append(command_line(overrides))
    values: Any = {}
    places: dict[Key, str] = {(): str(path)}
    for layer in layers:
        _rename(layer)
        values = merge(values, layer.values)
        places |= layer.places
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(explain(error, values, places)) from None


def read(path: Path) -> Layer:
    """One YAML file with the place of every key. Raises RecipeError when it is missing or malformed."""
    try:
        loader = _Yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    layer = Layer({})
    try:
        node = loader.get_single_node()
        values = {} if node is None else _construct(loader, node, (), str(path), layer.places)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise RecipeError(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {error.problem}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, got {type(values).__name__}")
    if isinstance(files := values.get("plugins"), list):
        values["plugins"] = [str(path.parent / file) if isinstance(file, str) else file for file in files]
    layer.values = values
    return layer


def _construct(loader: _Yaml, node: yaml.Node, key: Key, file: str, places: dict[Key, str]) -> Any:
    if key:
        places[key] = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*key, i), file, places) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    values: dict[Any, Any] = {}
    for name_node, value_node in node.value:
        name = loader.construct_object(name_node)
        line = name_node.start_mark.line + 1
        if name in values:
            raise RecipeError(f"{file}:{line}: {dotted((*key, name))} is given twice")
        values[name] = _construct(loader, value_node, (*key, name), file, places)
        places[(*key, name)] = f"{file}:{line}"
    return values


def command_line(overrides: Sequence[str]) -> Layer:
    """`a.b=c` texts as a layer. Raises RecipeError for one that is no override."""
    given: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"command line: {text!r} is not an override; write key.path=value")
        try:
            given[key] = yaml.load(value, _Yaml)
        except yaml.YAMLError as error:
            raise RecipeError(f"command line: {text!r}: the value is not YAML: {error}") from error
    values = tree(given)
    return Layer(values, {_split(key): f"command line ({key})" for key in given})


def _split(key: str) -> Key:
    return tuple(int(p) if p.isdigit() else p for p in re.sub(r"\[(\d+)\]", r".\1", key).split("."))


def dotted(key: Sequence[str | int]) -> str:
    """data.sources[0].weight"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def flat(value: Any, key: Key = ()) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists: ("data.sources[0].weight", 1.0)."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        yield dotted(key), value
        return
    for name, inner in items:
        yield from flat(inner, (*key, name))


def tree(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings; list positions stay integer keys, which `merge` understands."""
    root: dict[Any, Any] = {}
    for key, value in overrides.items():
        *above, last = _split(key)
        node = root
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise RecipeError(f"{key!r} goes below a key that is itself given a value")
        node[last] = value
    return root


def merge(under: Any, over: Any, key: Key = ()) -> Any:
    """`over` laid on `under`: mappings key by key, everything else replaced.

    A plug-in of another `kind` replaces the one below it whole: its options would mean nothing to the new one. So does a
    mapping that names another `preset`: the parts of two update rules side by side are neither.
    """
    if isinstance(over, dict) and isinstance(under, str):  # `policy: nano` below `policy.option=...`
        under = {"kind": under}
    if isinstance(under, dict) and isinstance(over, dict):
        if "kind" in over and over["kind"] != under.get("kind"):
            return over
        if over.get("preset") not in (None, under.get("preset")):
            return {key: under[key] for key in ("kind",) if key in under} | over
        return under | {k: merge(under[k], v, (*key, k)) if k in under else v for k, v in over.items()}
    if isinstance(under, list) and isinstance(over, dict) and over and all(isinstance(i, int) for i in over):
        if max(over) >= len(under):
            raise RecipeError(f"{dotted((*key, max(over)))} is beyond the end of a list of {len(under)}")
        return [merge(item, over[i], (*key, i)) if i in over else item for i, item in enumerate(under)]
    return over


def _rename(layer: Layer) -> None:
    """Moves aliases of other frameworks to their place, with a warning."""
    for alias, name in ALIASES.items():
        try:
            value = _take(layer.values, _split(alias))
        except KeyError:
            continue
        place = layer.places.get(_split(alias), "recipe")
        section, leaf = name.split(".")
        target = layer.values.setdefault(section, {})
        if target.setdefault(leaf, value) != value:
            raise RecipeError(
                f"{place}: {alias} is an alias of {name}, which is also given, with another value"
            )
        layer.places[(section, leaf)] = place
        warnings.warn(f"{place}: {alias} is read as {name}; write it so", RecipeWarning, stacklevel=4)


def _take(values: Any, key: Key) -> Any:
    """Removes and returns the value at a key, and the mappings that this leaves empty. Raises KeyError."""
    head, *rest = key
    if not isinstance(values, dict):
        raise KeyError(head)
    if not rest:
        return values.pop(head)
    value = _take(values[head], tuple(rest))
    if not values[head]:
        del values[head]
    return value


def explain(
    error: ValidationError, values: Any, places: Mapping[Key, str], model: type[BaseModel] = Recipe
) -> str:
    """Every error on a line of its own: place, dotted key, what was expected and what was given."""
    lines: dict[Key, list[str]] = {}
    given: dict[Key, str] = {}
    problems = error.errors(include_url=False)
    for problem in problems:
        # A list is also reported as too short when its items failed: only the items' own errors say something.
        if any(
            len(p["loc"]) > len(problem["loc"]) and p["loc"][: len(problem["loc"])] == problem["loc"]
            for p in problems
        ):
            continue
        key = _known(values, problem["loc"])
        if problem["type"] == "extra_forbidden":
            section = section_at(model, values, key[:-1])
            text = f"unknown key; {nearest(str(key[-1]), section.model_fields if section else ())}"
        elif problem["type"] == "missing":
            key = (*key, str(problem["loc"][-1]))
            text = "is required and missing"
        elif problem["type"] in ("plugin", "value_error"):
            text = problem["msg"].removeprefix("Value error, ")
        else:
            text = problem["msg"].replace("Input should be", "expected")
            given[key] = f", got {problem['input']!r} ({type(problem['input']).__name__})"
        lines.setdefault(key, []).append(text)
    return "\n".join(
        ": ".join(filter(None, (_place(places, key), dotted(key), " or ".join(texts) + given.get(key, ""))))
        for key, texts in lines.items()
    )


def _known(values: Any, loc: Sequence[str | int]) -> Key:
    """The part of an error's location that exists in the data: unions append the names of their branches."""
    key: list[str | int] = []
    for part in loc:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            break
        key.append(part)
    return tuple(key)


def _place(places: Mapping[Key, str], key: Key) -> str:
    while key not in places:
        key = key[:-1]
    return places[key]


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that ships with triune. Raises RecipeError."""
    if Path(name).is_file():
        return Path(name)
    shipped = list_recipes()
    if name not in shipped:
        raise RecipeError(
            f"there is no recipe {name!r}: no such file, and none of that name; {nearest(name, shipped)}"
        )
    return shipped[name]


def list_recipes() -> dict[str, Path]:
    """The recipes that ship with triune, by name (`folder/name` without the suffix)."""
    # In a wheel they lie inside the package, in a checkout beside `src`.
    package = Path(__file__).parents[1]
    root = next(
        (folder for folder in (package / "recipes", package.parents[1] / "recipes") if folder.is_dir()), None
    )
    if root is None:
        return {}
    return {file.relative_to(root).with_suffix("").as_posix(): file for file in sorted(root.rglob("*.yaml"))}
