"""Samples as the store keeps them: whole, without the bytes of their pictures, once by the hash of their content."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable
from pathlib import Path

from triune.core.sample import Sample

_SHAS: dict[int, tuple[weakref.ref[Sample], str]] = {}
"""Hashes of living samples, by identity: a held-out sample is hashed once, not at every evaluation."""

_CONTENTS: dict[int, tuple[weakref.ref[Sample], str]] = {}
"""Contents of samples that were hashed, until they are asked for: a new sample is hashed and then written."""


def content(sample: Sample) -> str:
    """The sample as JSON. A picture is named by its hash, wherever it lay; a video keeps its place, for it is not copied."""
    waiting = _CONTENTS.pop(id(sample), None)
    if waiting is not None and waiting[0]() is sample:
        return waiting[1]
    plain = json.loads(sample.model_dump_json(exclude={"media": True}))
    plain["media"] = [
        medium.model_dump(mode="json", exclude={"data"} if medium.kind == "video" else {"data", "uri"})
        for medium in sample.media
    ]
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def sha(sample: Sample) -> str:
    """The sha256 of `content`."""
    known = _SHAS.get(id(sample))
    if known is not None and known[0]() is sample:
        return known[1]
    key, text = id(sample), content(sample)
    digest = hashlib.sha256(text.encode()).hexdigest()
    reference = weakref.ref(sample, lambda _: _forget(key))
    _SHAS[key], _CONTENTS[key] = (reference, digest), (reference, text)
    return digest


def _forget(key: int) -> None:
    _SHAS.pop(key, None)
    _CONTENTS.pop(key, None)


def restore(text: str, place: Callable[[str], Path]) -> Sample:
    """The sample of a `content`; `place` says where the picture of a hash is, or would be."""
    plain = json.loads(text)
    for medium in plain["media"]:
        if not medium.get("uri"):
            medium["uri"] = str(place(medium["sha256"]))
    return Sample.model_validate_json(json.dumps(plain))
