"""What every preset and every part of an algorithm must be; new ones are found by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from triune.algo import preset
from triune.algo.options import PolicyGradient
from triune.algo.shown import EXTRAS, KINDS, parts, passes, show, views
from triune.train.views import Views

PARTS = [(key, name) for key, registry in KINDS.items() for name in registry]


def given(algo: PolicyGradient) -> Iterator[str]:
    """Dotted keys of everything that a recipe's algorithm says."""
    for key in KINDS:
        found = {"": algo.advantage} if key == "advantage" else getattr(algo, key)
        for name, options in found.items():
            for option in options or ():
                yield ".".join(filter(None, (key, name, option)))


@pytest.mark.parametrize("name", preset.names())
def test_a_preset_is_complete(name: str) -> None:
    found = preset.load(name)
    algo = PolicyGradient.model_validate(found.tried())
    built = list(parts(algo))
    assert any(key == "terms" for key, _, _ in built)
    for key in ("collect", "views", "shape", "adjust", "terms"):
        algo.parts(key)
    algo.estimator()
    # What a part refers to is there: a view by its name, or the reference, which declares itself.
    for _, _, part in built:
        assert set(views(part)) <= {"old", "reference", *algo.views}
    assert PolicyGradient.model_validate(algo.model_dump()) == algo
    shown = show(found)
    for text in (found.title, *found.sources, found.equation.strip().splitlines()[0], *found.required):
        assert text in shown


@pytest.mark.parametrize("name", preset.names())
def test_as_many_passes_are_shown_as_are_made(name: str) -> None:
    algo = PolicyGradient.model_validate(preset.load(name).tried())
    needs = {need for _, _, part in parts(algo) for need in part.needs}
    family: Any = SimpleNamespace(provides=EXTRAS, views={"frozen", "corrupted"}, declare=lambda *_: None)
    exact, other = Views(family, 0, exact=True), Views(family, 0, exact=False)
    for seen in (exact, other):
        seen.need(algo.parts("views"), needs)
    named, more = passes(needs)
    assert len(named) == exact.passes
    assert len(named) + bool(more) == other.passes


@pytest.mark.parametrize("name", preset.names())
def test_a_preset_names_what_it_cannot_know(name: str) -> None:
    """Constants that no source states are required: without them the preset is an error, and the preset says which."""
    found = preset.load(name)
    algo = PolicyGradient.model_validate({"preset": name})
    missing = {
        f"{key}.{part}.{option}" if part else f"{key}.{option}"
        for key, part, built in parts(algo)
        for option, field in type(built).model_fields.items()
        if field.is_required() and option not in built.model_fields_set
    }
    if algo.aggregate.endswith("const") and algo.constant is None:
        missing.add("constant")
    assert missing == set(found.required) - set(given(algo))


@pytest.mark.parametrize(("key", "name"), PARTS)
def test_a_part_says_what_it_is_and_what_its_parameters_mean(key: str, name: str) -> None:
    part: Any = KINDS[key][name]
    assert part.__doc__
    assert part.model_fields["kind"].default == name
    for option, field in part.model_fields.items():
        assert option == "kind" or field.description, f"{name}.{option} has no description"
        if isinstance(field.default, float):
            assert math.isfinite(field.default)


@pytest.mark.parametrize(("key", "name"), PARTS)
def test_a_part_without_required_constants_keeps_its_state(key: str, name: str) -> None:
    part: Any = KINDS[key][name]
    if any(field.is_required() for field in part.model_fields.values()):
        pytest.skip("has required constants: its own tests build it")
    one, other = part(), part()
    assert one.needs.isdisjoint({""})
    assert not (one.needs & EXTRAS) or key in ("terms", "advantage", "adjust", "shape")
    other.restore(one.state())
    assert str(other.state()) == str(one.state())
