"""Where triune keeps what can be made again: `$TRIUNE_CACHE`, else `triune` in the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for one kind of thing; it may not exist yet."""
    base = os.environ.get("TRIUNE_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triune"
    return (Path(base) if base else home) / kind
