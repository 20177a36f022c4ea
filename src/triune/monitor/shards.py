"""The Parquet files of a run's rollouts: one for each step and phase that kept any, put in place whole.

A shard is written beside its place, named by the transaction that commits the step, and then moved. A writer that is
killed in between leaves a whole file that only has to be moved, which the next writer does; readers find it meanwhile.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from triune.core.errors import StorageError
from triune.monitor.disk import move, naming, write

T = TypeVar("T")


class Shards:
    """`db` holds the table `shards`. Errors are StorageErrors that name the file."""

    def __init__(self, run_dir: Path, db: sqlite3.Connection) -> None:
        self.run_dir, self._db = run_dir, db

    def steps(self, phase: str) -> list[int]:
        rows = self._db.execute("SELECT step FROM shards WHERE phase = ? ORDER BY step", (phase,))
        return [step for (step,) in rows]

    def files(self) -> dict[Path, tuple[str, int]]:
        """The place of every shard, and its phase and step."""
        rows = self._db.execute("SELECT phase, step FROM shards ORDER BY phase, step").fetchall()
        return {self._file(phase, step): (phase, step) for phase, step in rows}

    def read(self, phase: str, step: int, how: Callable[[Path], T]) -> T:
        """What `how` makes of the shard, which may be moved or replaced meanwhile. Raises StorageError as `path` does, or if
        its bytes are not those that were written, which Parquet does not always notice, and what `how` raises of a file
        that stayed."""
        while True:
            known, path = self._row(phase, step), self.path(phase, step)
            try:
                with naming(path, reading=True):
                    found = zlib.crc32(path.read_bytes())
                if known is not None and known[2] not in (None, found):
                    raise StorageError(f"{path}: damaged: its bytes are not those that were written")
                return how(path)
            except StorageError:
                if path.exists() and self._row(phase, step) == known:
                    raise

    def path(self, phase: str, step: int) -> Path:
        """Where the shard can be read now. Raises StorageError if there was one, and it is gone or not whole."""
        file, known, before = self._file(phase, step), self._row(phase, step), None
        while known is not None and known != before:
            for place in (file, file.with_suffix(".partial"), file):
                with contextlib.suppress(OSError):
                    if known[1] in (None, place.stat().st_size):
                        return place
            # Was the step logged again, and its file moved, while we looked?
            before, known = known, self._row(phase, step)
        if known is None:
            raise StorageError(f"{file}: no rollouts of step {step} of phase {phase} were kept")
        rows, size, _ = known
        if file.exists():
            raise StorageError(
                f"{file}: has {file.stat().st_size} bytes and was written with {size}: half-written or damaged; restore "
                f"it from a copy. The {rows} rollouts of step {step} are listed, but cannot be shown"
            )
        raise StorageError(
            f"{file}: is gone; the index names {rows or 'its'} rollouts of step {step} of phase {phase} there"
        )

    def has(self, phase: str, step: int) -> bool:
        return self._row(phase, step) is not None

    def prepare(self, phase: str, step: int, data: bytes) -> None:
        """Writes a shard beside its place, to survive a power cut."""
        write(self._file(phase, step).with_suffix(".partial"), data)

    def name(self, phase: str, step: int, rows: int, data: bytes) -> None:
        """Within the transaction that commits it."""
        values = (step, phase, rows, len(data), zlib.crc32(data))
        self._db.execute(
            "INSERT INTO shards (step, phase, rows, bytes, checksum) VALUES (?, ?, ?, ?, ?)", values
        )

    def settle(self, phase: str, step: int, committed: bool) -> None:
        """After the transaction: puts the shard in its place, or forgets what was prepared."""
        file = self._file(phase, step)
        partial = file.with_suffix(".partial")
        if not committed:
            partial.unlink(missing_ok=True)
        elif self.has(phase, step):
            move(partial, file)
        else:
            with naming(file):
                file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Finishes or removes what a writer left that was killed."""
        for partial in self.run_dir.glob("rollouts/*/*.partial"):
            if re.fullmatch(r"\d+", partial.stem):
                known = self._row(partial.parent.name, int(partial.stem))
                data = partial.read_bytes() if known else b""
                if known and known[1:] == (len(data), zlib.crc32(data)):
                    move(partial, partial.with_suffix(".parquet"))
                    continue
            partial.unlink(missing_ok=True)

    def drop_after(self, step: int) -> None:
        """Removes the files of later steps, once the rewind is committed."""
        for file in self.run_dir.glob("rollouts/*/*.parquet"):
            if re.fullmatch(r"\d+", file.stem) and int(file.stem) > step:
                with naming(file):
                    file.unlink()

    def _row(self, phase: str, step: int) -> tuple[int | None, int | None, int | None] | None:
        found: tuple[int | None, int | None, int | None] | None = self._db.execute(
            "SELECT rows, bytes, checksum FROM shards WHERE step = ? AND phase = ?", (step, phase)
        ).fetchone()
        return found

    def _file(self, phase: str, step: int) -> Path:
        return self.run_dir / "rollouts" / phase / f"{step:08d}.parquet"
