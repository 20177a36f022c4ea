"""The pages that are written from the code leave nothing out."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from triune.algo import preset
from triune.algo.shown import KINDS
from triune.cli import COMMANDS
from triune.core import errors
from triune.verify.verifier import verifiers

from .pages import ROOT


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    pytest.importorskip("pygments")
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/_ext/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_verifier_has_its_parameters_cases_and_metrics(reference: ModuleType) -> None:
    sections = dict(part.split("\n", 1) for part in reference.verifiers_page().split("\n## ")[1:])
    assert {*verifiers, "env/NAME"} == sections.keys()
    for name in verifiers:
        cases = sections[name].split("Cases:")[1]
        assert cases.count("\n|") == len(verifiers[name].cases) + 2
        for parameter, info in verifiers[name].Params.model_fields.items():
            assert f"| `{parameter}` |" in sections[name]
            assert str(info.description).replace("|", "\\|") in sections[name]
    assert "`verifier/precision@50`" in sections["box_iou"]


def test_every_command_and_error_is_there(reference: ModuleType) -> None:
    commands, kinds = reference.commands_page(), reference.errors_page()
    assert all(f"\n## triune {name}\n" in commands for name in COMMANDS)
    assert "usage: triune train" in commands
    raised = [name for name, kind in vars(errors).items() if isinstance(kind, type) and name[0].isupper()]
    assert all(f"| `{name}` |" in kinds for name in raised if name != "Iterable")
    assert "| `policy(language).path` |" in reference.keys_page()


def test_every_part_and_preset_of_an_update_rule_is_there(reference: ModuleType) -> None:
    parts, presets = reference.parts_page(), reference.presets_page()
    assert all(f"`{name}`" in parts for registry in KINDS.values() for name in registry)
    assert all(f"{name}: " in presets for name in preset.names())
