"""Writing a run's files so that a crash, a full disk or a second writer never damages what is there."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from triune.core.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows: a second writer goes unnoticed there
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def naming(path: Path, *, reading: bool = False) -> Iterator[None]:
    """Turns errors of the file system and of SQLite into a StorageError that names the file."""
    try:
        yield
    except (OSError, sqlite3.OperationalError, sqlite3.DatabaseError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        advice = "" if reading else "; everything logged before is intact"
        raise StorageError(f"{getattr(error, 'filename', None) or path}: {reason}{advice}") from error


def write(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Writes a file whole; leaves none behind on failure. `sync` waits until it would survive a power cut."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def put(folder: str, name: str, data: bytes) -> None:
    """Makes a file be there whole, if it is not yet. Without waiting for the disk: thousands of small files would cost
    seconds a step, and one that a power cut emptied is told by its size and written again."""
    path, partial = (
        f"{folder}/{name}",
        f"{folder}/.{name}.partial",
    )  # no Path: it would take longer than the disk
    with naming(Path(path)):
        try:
            if os.stat(path).st_size == len(data):
                return
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                written = 0
                while written < len(data):
                    written += os.write(handle, data[written:])
            finally:
                os.close(handle)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise


def move(partial: Path, path: Path) -> None:
    """Puts a finished file in its place, atomically, and makes the change of name survive a power cut."""
    with naming(path):
        partial.replace(path)
        if os.name == "posix":  # a directory cannot be opened elsewhere
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


class Claim:
    """The right to write a run, held by one process until released or dead. Raises StorageError if it is taken.

    POSIX record locks and not flock: a worker forked from the writer must not keep the run locked after the
    writer died. They do not tell two writers of one process apart, so those are remembered here.
    """

    _mine: ClassVar[set[Path]] = set()

    def __init__(self, run_dir: Path) -> None:
        self._key = run_dir.resolve()
        if self._key in self._mine:
            raise StorageError(f"{run_dir} is already being written by this process; close that store first")
        path = run_dir / "writer.lock"
        with naming(path):
            run_dir.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+")
            try:
                if fcntl is not None:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._file.seek(0)
                owner = self._file.read().strip()
                self._file.close()
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                raise StorageError(
                    f"{run_dir} is being written by process {owner}; a run has one writer"
                ) from None
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()
        self._mine.add(self._key)

    @classmethod
    def ours(cls, run_dir: Path) -> bool:
        """This process holds it."""
        return run_dir.resolve() in cls._mine

    def release(self) -> None:
        if not self._file.closed:
            self._file.close()
            self._mine.discard(self._key)
