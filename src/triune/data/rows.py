"""Foreign rows: typed access to a row whose errors say what is wrong, and where."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import Image
from pydantic import ValidationError

from triune.core.errors import DataError, MediaMismatch, nearest
from triune.core.sample import Block, Media, Message, Picture, Sample, Text
from triune.data.cache import cached

Reason = Literal[
    "missing_field", "wrong_type", "missing_media", "broken_media", "outside_folder", "placeholders", "unsupported",
    "invalid", "duplicate_id",
]  # fmt: skip
"""Why a row cannot become a sample; skipped rows are counted under it."""

T = TypeVar("T")

_ROLES = {"human": "user", "gpt": "assistant"}
_PLACEHOLDER = re.compile(r"(<image>|<video>)")


class BadRow(DataError):
    """One row cannot become a sample. `reason` is what it is counted under when bad rows are skipped."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PlaceholderMismatch(BadRow, MediaMismatch):
    """The prompt has another number of media placeholders than the row has media."""


@dataclass(frozen=True)
class Row:
    """One row of a file. `folder` is where relative media paths start; `path` the key path of a nested row; `prefix`
    the file's name in ids, where its own is not unique.

    `split` and `seed` are for adapters that word a prompt: drawn per sample in training, fixed when held out. `rest` are
    further rows of the same sample, in formats that spread one over several. `outside` allows pictures outside `folder`;
    `cached` moves pictures that are given by value to the cache folder, so that they do not fill the memory.
    """

    values: Mapping[str, Any]
    file: Path
    number: int
    folder: Path
    source: str = ""
    split: Literal["train", "heldout"] = "train"
    seed: int = 0
    path: str = ""
    prefix: str = ""
    rest: tuple[Row, ...] = ()
    outside: bool = False
    cached: bool = False

    def error(self, reason: Reason, message: str) -> BadRow:
        kind = PlaceholderMismatch if reason == "placeholders" else BadRow
        return kind(
            reason,
            f"{self.file}, row {self.number}: {message} [{reason}; data.on_bad_row: skip leaves such rows out]",
        )

    def get(self, key: str, kind: type[T], default: T) -> T:
        """The field, or the default where it is absent or null; DataError if it is of another type."""
        value = self.values.get(key)
        return default if value is None else self._typed(key, value, kind)

    def need(self, key: str, kind: type[T]) -> T:
        """The field; DataError if it is absent, null or of another type."""
        value = self.values.get(key)
        if value is None:
            state = "is null" if key in self.values else f"is missing ({nearest(key, self.values)})"
            raise self.error("missing_field", f"field {self.path + key!r} {state}; give it a {kind.__name__}")
        return self._typed(key, value, kind)

    def _typed(self, key: str, value: Any, kind: type[T]) -> T:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
            raise self.error(
                "wrong_type",
                f"field {self.path + key!r} must be a {kind.__name__}, got {type(value).__name__} {_short(value)}",
            )
        return value

    def nested(self, key: str) -> Row:
        """The struct under a key, as a row of its own with the same location."""
        return replace(self, values=self.need(key, dict), path=f"{self.path}{key}.")

    def with_values(self, **values: Any) -> Row:
        """The same row with some fields replaced, for formats that word the same thing differently."""
        return replace(self, values={**self.values, **values})

    @property
    def id(self) -> str:
        """An id for rows that carry none: file and row, which survive shuffling and shards."""
        return f"{self.prefix or self.file.stem}/{self.number}"

    def images(self, key: str) -> tuple[Media, ...]:
        """The pictures under a key, which holds one or a list of: path, bytes, {bytes, path}, data URI, PIL image.

        Only headers are read. Raises DataError for one that is missing or is not an image.
        """
        value = self.values.get(key)
        values = value if isinstance(value, list | tuple) else [] if value is None else [value]
        return tuple(self._image(f"{self.path}{key}[{i}]", item) for i, item in enumerate(values))

    def _image(self, where: str, value: Any) -> Media:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path") or value.get("url")
        if isinstance(value, Image.Image):
            return self.kept(Media.from_image(value))
        uri = None
        if isinstance(value, str | Path):
            value, uri = self._read(where, str(value))
        if value is None or value == b"":
            raise self.error(
                "missing_media", f"{where} is empty; give a path, bytes, {{bytes, path}} or a PIL image"
            )
        if not isinstance(value, bytes):
            raise self.error(
                "wrong_type", f"{where} must be a path, bytes or a PIL image, got {type(value).__name__}"
            )
        try:
            media = Media.from_bytes(value, uri)
        except DataError as error:
            raise self.error(
                "broken_media", f"{where} ({uri or 'bytes'}) {error}; re-export it or skip the row"
            ) from error
        return self.kept(media)

    def kept(self, media: Media) -> Media:
        """The picture, its bytes on disk instead of in memory where the file is large."""
        return cached(media) if self.cached and media.data is not None else media

    def _read(self, where: str, location: str) -> tuple[bytes, str | None]:
        if location.startswith("data:"):
            try:
                return base64.b64decode(location.partition(",")[2], validate=True), None
            except binascii.Error as error:
                raise self.error("broken_media", f"{where} is not a base64 data URI: {error}") from error
        if "://" in location and not location.startswith("file://"):
            raise self.error(
                "unsupported", f"{where} is a remote address {location!r}; download it and give a path"
            )
        path = self.located(where, location.removeprefix("file://"))
        try:
            return path.read_bytes(), str(path)
        except OSError as error:
            raise self.error(
                "missing_media", f"{where} names {str(path)!r}, which cannot be read ({error.strerror}); "
                "relative paths start at the data file's folder, or at `folder` of the adapter",
            ) from error  # fmt: skip

    def located(self, where: str, location: str) -> Path:
        """The place that a row's path means. Raises DataError when it leads out of the data folder and may not."""
        path = self.folder / location
        if not self.outside and not path.resolve().is_relative_to(self.folder.resolve()):
            raise self.error(
                "outside_folder", f"{where} names {location!r}, which leads out of the data folder {str(self.folder)!r} to "
                f"{str(path.resolve())!r}; set `folder` of the adapter to the folder that holds the pictures, or "
                "`allow_outside: true`",
            )  # fmt: skip
        return path

    def messages(self, key: str, images: Sequence[Media]) -> tuple[Message, ...]:
        """A conversation with every picture in its place.

        Reads {role, content} and {from, value}; content is a string with `<image>` placeholders or a list of typed
        blocks. Raises DataError when places and pictures differ in number: none is guessed, none is dropped.
        """
        blocks: list[tuple[Any, list[Block]]] = []
        shown = 0
        for i, turn in enumerate(self.need(key, list)):
            where = f"{self.path}{key}[{i}]"
            if not isinstance(turn, Mapping):
                raise self.error(
                    "wrong_type", f"{where} must be a struct, got {type(turn).__name__} {_short(turn)}"
                )
            role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
            parts: list[Block] = []
            for text in self._parts(f"{where}.content", content):
                if text == "<image>":
                    parts.append(Picture(media=shown))
                    shown += 1
                elif text == "<video>":
                    raise self.error("unsupported", f"{where} shows a video; only images are supported")
                elif text:
                    parts.append(Text(text=text))
            blocks.append((_ROLES.get(str(role), role), parts))
        if not blocks:
            raise self.error("missing_field", f"{self.path}{key} is an empty conversation")
        if shown != len(images):
            raise self.error(
                "placeholders",
                f"the prompt shows {shown} image(s) (<image> placeholders or image blocks) but the row has "
                f"{len(images)}; every image must be shown exactly once",
            )
        try:
            return tuple(Message(role=role, content=tuple(parts)) for role, parts in blocks)
        except ValidationError as error:
            raise self.error("invalid", f"{self.path}{key}: {_first(error)}") from error

    def _parts(self, where: str, content: Any) -> Iterator[str]:
        if isinstance(content, str):
            yield from _PLACEHOLDER.split(content)
            return
        if not isinstance(content, list):
            raise self.error(
                "wrong_type", f"{where} must be a string or a list of blocks, got {_short(content)}"
            )
        for block in content:
            kind = block.get("type") if isinstance(block, Mapping) else None
            if kind == "text" and isinstance(block.get("text"), str):
                yield block["text"]
            elif kind in ("image", "image_url", "video"):
                yield "<video>" if kind == "video" else "<image>"
            else:
                raise self.error(
                    "wrong_type", f"{where} has a block that is neither text nor image: {_short(block)}"
                )

    def sample(self, **fields: Any) -> Sample:
        """Builds the sample; what its own validation refuses becomes a DataError that names the row."""
        try:
            return Sample(**fields)
        except ValidationError as error:
            raise self.error("invalid", _first(error)) from error

    def sample_json(self, values: Mapping[str, Any]) -> Sample:
        """Likewise from JSON values, where bytes are base64."""
        try:
            return Sample.model_validate_json(json.dumps(values))
        except ValidationError as error:
            raise self.error("invalid", _first(error)) from error
        except TypeError as error:
            raise self.error("wrong_type", str(error)) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
