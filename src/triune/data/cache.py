"""Pictures of large files on disk instead of in memory: one file a picture, named by the hash of its bytes.

The cache may be deleted whenever no run uses it; it is filled again when the data is opened.
"""

from __future__ import annotations

from triune.core.cache import cache_folder
from triune.core.media import Media
from triune.data.files import atomic


def cached(media: Media) -> Media:
    """The same picture, by location: its bytes are in the cache folder. Raises StorageError when it cannot be written."""
    assert media.data is not None
    path = cache_folder("media") / media.sha256[:2] / media.sha256
    if not path.is_file() or path.stat().st_size != len(media.data):
        with atomic(path) as temporary:
            temporary.write_bytes(media.data)
    return media.model_copy(update={"uri": str(path), "data": None})
