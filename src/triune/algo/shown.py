"""A preset in words: its parts, the views that each of them asks for, the equation and the sources."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from inspect import getdoc
from typing import Any

import yaml

from triune.algo.options import (
    ADJUSTMENTS,
    ADVANTAGES,
    COLLECTORS,
    SHAPES,
    TERMS,
    VIEWS,
    Options,
    PolicyGradient,
)
from triune.algo.preset import Preset
from triune.core.registry import Registry

KINDS: Mapping[str, Registry[Any]] = {
    "collect": COLLECTORS,
    "views": VIEWS,
    "shape": SHAPES,
    "advantage": ADVANTAGES,
    "adjust": ADJUSTMENTS,
    "terms": TERMS,
}
EXTRAS = frozenset({"entropy", "value", "distribution", "collision"})
"""What a term may want of the pass that is trained anyway: no further one."""


def parts(algo: PolicyGradient) -> Iterator[tuple[str, str, Options]]:
    """(key, name, part) of everything that an algorithm is made of. Parts whose required constants are not given are built
    without them."""
    for key, registry in KINDS.items():
        found = {"": algo.advantage} if key == "advantage" else getattr(algo, key)
        for name, options in found.items():
            if options is not None:
                kind = registry[options["kind"]]
                missing = any(f.is_required() and n not in options for n, f in kind.model_fields.items())
                built = kind.model_construct(**options) if missing else kind.model_validate(options)
                yield key, name, built


def views(part: Options) -> list[str]:
    """The passes that a part needs besides the one that is trained; `old` is free where the engine is exact."""
    return sorted({need.split(".")[0] for need in part.needs} - EXTRAS)


def passes(needs: Collection[str]) -> tuple[list[str], str]:
    """The passes of a step besides the trained one, by name, and when there is one more: those of `old` are the engine's own
    log-probs where it is exact, unless more is asked of it than these (an entropy, a critic's value)."""
    found = {need.split(".")[0] for need in needs} - EXTRAS - {"old"}
    if "value" in needs or any(need.startswith("old.") and need != "old.placed" for need in needs):
        return sorted({*found, "old"}), ""
    if not any(need.split(".")[0] == "old" for need in needs):
        return sorted(found), ""
    placed = " or rows are placed" if "old.placed" in needs else ""
    return sorted(found), f"; one more for `old` if the engine is not exact{placed}"


def show(preset: Preset) -> str:
    """What `triune recipes show PRESET` prints."""
    algo = PolicyGradient.model_validate({"preset": preset.name})
    lines = [f"{preset.name}: {preset.title}", "", preset.equation.rstrip(), ""]
    lines += [f"source: {source}" for source in preset.sources]
    lines += [f"note: {note}" for note in preset.notes]
    needs = set[str]()
    lines += ["", "parts:"]
    for key, name, part in parts(algo):
        said = views(part)
        needs |= part.needs
        about = (getdoc(type(part)) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"  {'.'.join(filter(None, (key, name)))}: {getattr(part, 'kind', '')}: {about}")
        given = part.model_dump(mode="json", exclude_unset=True, exclude={"kind"})
        if given:
            lines.append(f"    {_in_yaml(given)}")
        if said:
            lines.append(f"    needs the views: {', '.join(said)}")
    lines.append(
        f"  aggregate: {algo.aggregate}" + (f", constant {algo.constant:g}" if algo.constant else "")
    )
    extra, more = passes(needs)
    named = f" ({', '.join(extra)})" if extra else ""
    lines.append(f"  forward passes besides the trained one: {len(extra)}{named}{more}")
    if preset.required:
        lines += [
            "",
            "to be given by the recipe, because no source states them (the values are only to try it with):",
        ]
        lines += [f"  algo.{key}: {_in_yaml(value)}" for key, value in preset.required.items()]
    if preset.recipe:
        lines += ["", "belongs to it, outside algo:"]
        lines += [f"  {key}: {_in_yaml(value)}" for key, value in preset.recipe.items()]
    lines += ["", f"use it:  algo: {{kind: policy_gradient, preset: {preset.name}}}"]
    return "\n".join(lines)


def _in_yaml(value: Any) -> str:
    """A value as a recipe would have it, on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("...\n").strip()
