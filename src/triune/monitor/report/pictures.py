"""Pictures for the report, small enough to embed."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

MAX_SIDE = 512  # pixels; larger pictures are scaled down for the page
_EMBEDDABLE = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
_MAX_BYTES = 200_000  # of an embedded original


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as the page shows it: `uri` is a data URI; `size` is (width, height) of the stored one in pixels."""

    uri: str
    size: tuple[int, int]
    path: Path


def load(path: Path | None) -> Picture | None:
    """The picture, re-encoded if it is large or of a kind that browsers do not show; None if it cannot be read."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size, kind = image.size, _EMBEDDABLE.get(image.format or "")
            if kind is None or len(data) > _MAX_BYTES or max(size) > MAX_SIDE:
                image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, format="JPEG", quality=88)
                data, kind = buffer.getvalue(), "image/jpeg"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return Picture(f"data:{kind};base64,{base64.b64encode(data).decode()}", size, path)
