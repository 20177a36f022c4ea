"""A folder of runs, as a reader finds it: names, recipes, tags, and which of them is being written right now."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from triune.core.errors import StorageError, nearest
from triune.core.provenance import PROVENANCE_FILE, RECIPE_FILE
from triune.monitor.disk import Claim, naming, write
from triune.monitor.store import Store

METRICS_FILE = "metrics.sqlite"
TAGS_FILE = "tags.json"
MAX_TAGS, MAX_TAG_LENGTH = 50, 60
MAX_NAME, MAX_PART = 1000, 255
_DEEPEST = 4  # folders below the root in which runs are looked for
_IDLE_READERS = 4  # per run; opening one costs a millisecond, and much more for a store of an older version
_Loader: type[Any] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # of a list of runs, reading recipes is most of the work
_ROOT_NAME = "."
"""The name of the root itself, where that is a run."""


class UnknownRun(StorageError):
    """There is no run of this name under the folder of runs."""


@dataclass(frozen=True)
class RunFolder:
    """One run under its name, which is its path below the folder of runs. `locks`: those of the machine, if they were read."""

    name: str
    path: Path
    locks: Mapping[str, int] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as plain data, without loading what it names; empty where the run has none."""
        file = self.path / RECIPE_FILE
        if not file.is_file():
            return {}
        try:
            with naming(file, reading=True):
                found = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise StorageError(f"{file}: {error}") from error
        return found if isinstance(found, dict) else {}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the run was made from, as it was saved; empty where nothing was."""
        return _json_object(self.path / PROVENANCE_FILE)

    @property
    def total_steps(self) -> int | None:
        """Steps that the recipe asks for."""
        train = self.recipe.get("train")
        steps = train.get("total_steps") if isinstance(train, dict) else None
        return steps if isinstance(steps, int) else None

    @property
    def live(self) -> bool:
        """A process is writing it now."""
        return writer_of(self.path, self.locks) is not None

    @property
    def tags(self) -> tuple[str, ...]:
        """Words that the user gave it."""
        found = _json_object(self.path / TAGS_FILE).get("tags", [])
        return tuple(tag for tag in found if isinstance(tag, str)) if isinstance(found, list) else ()

    def tag(self, tags: list[str]) -> None:
        """Puts these in place of its tags; raises ValueError for more than fifty, or one that is empty or long."""
        clean = list(dict.fromkeys(tag.strip() for tag in tags))
        if len(clean) > MAX_TAGS or any(not 0 < len(tag) <= MAX_TAG_LENGTH for tag in clean):
            raise ValueError(f"at most {MAX_TAGS} tags of 1 to {MAX_TAG_LENGTH} characters")
        partial = self.path / f".{TAGS_FILE}.partial"
        write(partial, json.dumps({"tags": clean}, ensure_ascii=False).encode())
        with naming(partial):
            partial.replace(self.path / TAGS_FILE)

    @property
    def stamp(self) -> str:
        """Changes whenever something was committed; costs four `stat`s, so it can be asked for often."""
        said = []
        for name in (METRICS_FILE, METRICS_FILE + "-wal", TAGS_FILE, RECIPE_FILE):
            with contextlib.suppress(OSError):
                found = (self.path / name).stat()
                if found.st_size:  # a reader leaves an empty log
                    said.append(f"{found.st_ino:x}.{found.st_mtime_ns:x}.{found.st_size:x}")
        return "-".join(said)

    @property
    def news(self) -> str:
        """The stamp, and whether it is live: changes with whatever a list of runs shows."""
        return f"{self.stamp}{'+' if self.live else ''}"


class Runs:
    """The runs under a folder. Safe to use from several threads."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._idle: dict[Path, list[tuple[str, Store]]] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Every folder that holds a run, newest first by what was last written."""
        found = []
        for folder, inner, files in os.walk(self.root):
            depth = len(Path(folder).relative_to(self.root).parts)
            if METRICS_FILE in files:
                newest = max(_modified(Path(folder, METRICS_FILE + end)) for end in ("", "-wal"))
                found.append((newest, PurePosixPath(Path(folder).relative_to(self.root)).as_posix()))
                inner.clear()  # a run's own folders hold no other run
            elif depth >= _DEEPEST:
                inner.clear()
            inner[:] = sorted(name for name in inner if not name.startswith("."))
        return [name for _, name in sorted(found, key=lambda one: (-one[0], one[1]))]

    def open(self, name: str, locks: Mapping[str, int] | None = None) -> RunFolder:
        """Raises UnknownRun for what is no run under the root: `../`, absolute paths and links that lead out as well.

        `locks` of the machine (`held_locks`), for who opens many at once.
        """
        parts = PurePosixPath(name).parts
        usual = parts and name == "/".join(parts) and ".." not in parts and not set(name) & set("\\\0:")
        if name != _ROOT_NAME and not (
            usual and len(name) <= MAX_NAME and max(len(os.fsencode(p)) for p in parts) <= MAX_PART
        ):
            raise UnknownRun(f"{name!r} is not the name of a run")
        root = self.root.resolve()
        path = root.joinpath(*parts)
        if not path.resolve().is_relative_to(root) or not (path / METRICS_FILE).is_file():
            raise UnknownRun(f"there is no run {name!r} under {self.root}: {nearest(name, self.names())}")
        return RunFolder(name, path, locks)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Store]:
        """The run's store for one thread; raises UnknownRun, and StorageError where it cannot be read."""
        path = self.open(name).path
        file = (path / METRICS_FILE).stat()
        key = f"{file.st_dev}.{file.st_ino}"  # another run may have come in this one's place
        with self._lock:
            kept = self._idle.get(path, [])
            store = next((held for known, held in kept if known == key), None)
            gone = [held for known, held in kept if known != key]
            self._idle[path] = [(known, held) for known, held in kept if known == key and held is not store]
        for other in gone:
            other.close()
        store = store or Store(path, readonly=True)
        try:
            yield store
        except BaseException:
            store.close()
            raise
        with self._lock:
            idle = self._idle.setdefault(path, [])
            if keep := len(idle) < _IDLE_READERS:
                idle.append((key, store))
        if not keep:
            store.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, {}
        for _, store in (one for many in idle.values() for one in many):
            store.close()


def held_locks() -> dict[str, int]:
    """The process that holds each locked file's inode. Raises OSError where the system does not say (it is not Linux)."""
    # "1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 0 EOF": process, then device and inode
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {f[5].rpartition(":")[2]: int(f[4]) for f in held if len(f) > 5 and f[3] == "WRITE"}


def writer_of(run_dir: Path, locks: Mapping[str, int] | None = None) -> int | None:
    """The process that writes a run, None if there is none.

    The lock itself is neither tried nor opened: closing it again would take it from a writer in this very process.
    """
    if Claim.ours(run_dir):
        return os.getpid()
    lock = run_dir / "writer.lock"
    try:
        inode = str(lock.stat().st_ino)
        return (held_locks() if locks is None else locks).get(inode)
    except (OSError, ValueError):
        pass
    try:
        owner = int(lock.read_text() or 0)
        os.kill(owner, 0)
    except (OSError, ValueError):
        return None
    return owner or None


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _json_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        with naming(file, reading=True):
            found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{file}: {error}") from error
    return found if isinstance(found, dict) else {}
