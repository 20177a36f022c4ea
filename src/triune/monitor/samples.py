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


def content(sample: Sample) -> str:
    """The sample as JSON. A picture is named by its hash, wherever it lay; a video keeps its place, for it is not copied."""
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
    digest = hashlib.sha256(content(sample).encode()).hexdigest()
    key = id(sample)
    _SHAS[key] = weakref.ref(sample, lambda _: _SHAS.pop(key, None)), digest
    return digest


def restore(text: str, place: Callable[[str], Path]) -> Sample:
    """The sample of a `content`; `place` says where the picture of a hash is, or would be."""
    plain = json.loads(text)
    for medium in plain["media"]:
        if not medium.get("uri"):
            medium["uri"] = str(place(medium["sha256"]))
    return Sample.model_validate_json(json.dumps(plain))
