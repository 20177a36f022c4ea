"""Triune's own rows: Parquet written by `triune.data.parquet`, or one Sample as JSON a line."""

from __future__ import annotations

import json
from typing import Any, Literal

from triune.core.sample import Media, Sample
from triune.data import parquet
from triune.data.adapters import ADAPTERS, Adapter, Columns
from triune.data.rows import Row


@ADAPTERS.register("triune")
class Native(Adapter):
    """Samples as they are. In JSON, `media` may list paths; they are read and hashed."""

    examples = (
        {
            "id": "a",
            "source": "shapes",
            "task": "counting",
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "media": 0}, {"type": "text", "text": "How many?"}],
                }
            ],
            "media": ["picture.png"],
            "truth": 3,
            "checks": [{"verifier": "count"}],
        },
    )

    kind: Literal["triune"] = "triune"

    def wants(self) -> tuple[Columns, ...]:
        return (("messages", "checks"),)

    def sample(self, row: Row) -> Sample:
        values = dict(row.values)
        media = values.get("media")
        if isinstance(media, list) and any(
            not isinstance(item, dict) or "sha256" not in item for item in media
        ):
            found = row.images("media")
            values["media"] = [json.loads(item.model_dump_json()) for item in found]
        if row.file.suffix == ".parquet":
            sample = parquet.decode(Sample, values, f"{row.file}, row {row.number}")
        else:
            sample = self._from_json(row, values)
        return sample.model_copy(update={"media": tuple(self._located(row, item) for item in sample.media)})

    def _from_json(self, row: Row, values: dict[str, Any]) -> Sample:
        values.setdefault("id", row.id)
        values.setdefault("source", row.source)
        return row.sample_json(values)

    def _located(self, row: Row, media: Media) -> Media:
        if media.uri is None:
            return row.kept(media)
        path = row.located("media", media.uri)
        if not path.is_file():
            raise row.error("missing_media", f"media names {media.uri!r}, which does not exist")
        return media.model_copy(update={"uri": str(path)})
