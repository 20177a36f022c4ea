"""A run's pictures: every one once, its original bytes under their sha256."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from triune.core.sample import Media
from triune.monitor.disk import put

_MAGIC = {
    b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif"
}  # fmt: skip


class Pictures:
    """The folder `media` of a run. Videos stay where they are."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "media"
        self._kept: set[str] = set()  # known to be on disk

    def keep(self, media: Iterable[Media]) -> None:
        """Raises DataError if a picture can no longer be read, and StorageError if it cannot be written."""
        for medium in media:
            if medium.kind != "image" or medium.sha256 in self._kept:
                continue
            data = medium.read()
            put(f"{self._folder}/{medium.sha256[:2]}", f"{medium.sha256}.{_extension(data)}", data)
            self._kept.add(medium.sha256)

    def find(self, sha256: str) -> Path | None:
        """Where the picture is, if the run holds it."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ValueError(f"not a sha256: {sha256!r}")
        return next((self._folder / sha256[:2]).glob(f"{sha256}.*"), None)

    def place(self, sha256: str) -> Path:
        """Where it is, or would be."""
        return self.find(sha256) or self._folder / sha256[:2] / sha256

    def tidy(self) -> None:
        """Removes what a writer left that was killed."""
        for leftover in self._folder.glob("*/.*.partial"):
            leftover.unlink(missing_ok=True)


def _extension(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "bin")
