"""Pictures and videos of a sample: by location or by value, identified by the hash of their bytes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import Field, model_validator

from triune.core.base import Frozen
from triune.core.errors import DataError


class Media(Frozen):
    """One image or video, by location or by value; identity is the hash of its encoded bytes.

    `size` is (width, height) in pixels of the stored file, before any processor resizes it.
    """

    kind: Literal["image", "video"] = "image"
    uri: str | None = None
    data: bytes | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: tuple[int, int]

    @model_validator(mode="after")
    def _one_place(self) -> Media:
        if (self.uri is None) == (self.data is None):
            raise ValueError("exactly one of uri and data must be given")
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size}")
        return self

    @classmethod
    def from_bytes(cls, data: bytes, uri: str | None = None) -> Media:
        """Reads the header only; raises DataError when the bytes are not an image. Keeps `uri` instead of `data` if given."""
        try:
            with Image.open(io.BytesIO(data)) as image:
                size = image.size
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"not a readable image: {error}") from error
        digest = hashlib.sha256(data).hexdigest()
        return cls(uri=uri, data=None if uri else data, sha256=digest, size=size)

    @classmethod
    def from_image(cls, image: Image.Image) -> Media:
        """Stores the pixels losslessly (PNG)."""
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", compress_level=1)
        data = buffer.getvalue()
        return cls(data=data, sha256=hashlib.sha256(data).hexdigest(), size=image.size)

    def read(self) -> bytes:
        """The encoded bytes; raises DataError if the file is gone or no longer the one that was hashed."""
        if self.data is not None:
            return self.data
        try:
            data = Path(self.uri or "").read_bytes()
        except OSError as error:
            raise DataError(f"media {self.uri!r} cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise DataError(
                f"media {self.uri!r} changed since it was hashed; rebuild the data or restore the file"
            )
        return data

    def image(self) -> Image.Image:
        """The decoded picture in RGB."""
        try:
            with Image.open(io.BytesIO(self.read())) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"media {self.uri or self.sha256[:12]!r} cannot be decoded: {error}") from error
