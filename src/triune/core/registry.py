"""Named plug-ins: one decorator to register, one place to look up, entry points for packages outside.

A registry knows the built-in modules of its kind and imports them when a name is looked up that is not there yet, so
that importing `triune` stays cheap and a plug-in that needs an extra fails only when it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from triune.core.errors import RecipeError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Plug-ins of one kind, by name. `package` (or one module) holds the built-in ones; it is imported, module by
    module, when all names are asked for or one that is not registered yet."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._items: dict[str, T] = {}
        self._loaded = False
        self._lock = threading.RLock()  # a second thread waits for the first one's imports
        self._absent: dict[str, str] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(item: T) -> T:
            if self._items.get(name, item) is not item:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._items[name] = item
            return item

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise RecipeError(f"unknown {self.kind} {name!r}: {self.hint(name)}")
        return self._items[name]

    def __contains__(self, name: str) -> bool:
        if name not in self._items:
            self._load()
        return name in self._items

    def hint(self, name: str) -> str:
        """What an unknown name may have meant; names the modules that could not be imported, as it may be in one."""
        absent = ", ".join(f"{module} needs {what}" for module, what in self._absent.items())
        return nearest(name, self) + (f" (not installed: {absent})" if absent else "")

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._items))

    def _load(self) -> None:
        with self._lock:
            if not self._loaded:
                self._loaded = True  # first, because the modules themselves may look a plug-in up
                self._import()

    def _import(self) -> None:
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(getattr(package, "__path__", ()), package.__name__ + "."):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                missing = (error.name or "?").split(".")[0]
                if missing == "triune":
                    raise
                self._absent[module.name] = missing  # an extra that is not installed; the other plug-ins work
        for point in entry_points(group=f"triune.{self.kind}"):
            point.load()
