"""Plug-ins by name."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from triune.core.errors import RecipeError
from triune.core.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "plugins_for_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from triune.core.registry import Registry\nITEMS = Registry('thing', __name__)\n"
    )
    (folder / "one.py").write_text("from plugins_for_test import ITEMS\nITEMS.register('one')(1)\n")
    (folder / "two.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder.name


def test_modules_are_imported_when_a_name_is_not_known_yet(package: str) -> None:
    import plugins_for_test  # type: ignore[import-not-found]

    items: Registry[int] = plugins_for_test.ITEMS
    items.register("here")(3)
    assert items["here"] == 3
    assert "one" in items
    assert list(items) == ["here", "one"]
    with pytest.raises(
        RecipeError, match=r"unknown thing 'onee': did you mean 'one'\?.*two needs not_there_at_all"
    ):
        items["onee"]


def test_a_name_is_taken_once() -> None:
    items: Registry[int] = Registry("thing", "triune.core.errors")
    items.register("a")(1)
    with pytest.raises(ValueError, match="registered twice"):
        items.register("a")(2)


def test_a_second_thread_waits_for_the_first_ones_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "slow_plugins"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from triune.core.registry import Registry\nITEMS = Registry('thing', __name__)\n"
    )
    (folder / "one.py").write_text(
        "import time\nfrom slow_plugins import ITEMS\ntime.sleep(0.2)\nITEMS.register('one')(1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    items: Registry[int] = importlib.import_module("slow_plugins").ITEMS
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: items["one"], range(4))) == [1] * 4
