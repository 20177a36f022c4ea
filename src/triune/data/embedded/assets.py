"""Real input that ships inside libraries: handwriting, photographs, fonts; train and held-out parts are disjoint.

Handwriting: scikit-learn's copy of the UCI optical digits (1,797 images of 8 x 8, 17 grey levels). Photographs:
scikit-learn's two sample images. Fonts: those inside matplotlib (DejaVu, STIX, Computer Modern).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

from triune.core.errors import TriuneError

Split = Literal["train", "heldout"]

# Every fifth handwriting image is held out; the files are in no particular order of writer or class.
_HELDOUT_EVERY = 5
_FONTS: dict[Split, tuple[str, ...]] = {
    "train": (
        "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf",
        "STIXGeneral.ttf", "STIXGeneralBol.ttf", "cmss10.ttf", "cmb10.ttf",
    ),
    "heldout": ("DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf", "cmr10.ttf", "STIXGeneralBolIta.ttf"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Assets:
    """The raw material of one split: `digits[c]` is uint8 [n, 8, 8] ink of class c; photos are uint8 [h, w, 3]."""

    digits: tuple[NDArray[np.uint8], ...]
    photos: tuple[NDArray[np.uint8], ...]
    fonts: tuple[str, ...]


@functools.cache
def assets(split: Split) -> Assets:
    """The split's assets; raises TriuneError if the `embedded` extra is not installed."""
    try:
        import matplotlib
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError as error:
        raise TriuneError(
            "the embedded tasks draw on scikit-learn and matplotlib: pip install 'triune[embedded]'"
        ) from error
    pictures, labels = load_digits(return_X_y=True)
    ink = (np.asarray(pictures).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    held = np.arange(len(ink)) % _HELDOUT_EVERY == 0
    mine = held if split == "heldout" else ~held
    digits = tuple(ink[mine & (np.asarray(labels) == c)] for c in range(10))
    photos = []
    for photo in load_sample_images().images:
        small = np.asarray(Image.fromarray(photo).resize((320, 214), Image.Resampling.LANCZOS))
        # Disjoint regions: the left three quarters teach, the right quarter tests.
        photos.append(small[:, 240:] if split == "heldout" else small[:, :240])
    root = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return Assets(digits, tuple(photos), tuple(str(root / name) for name in _FONTS[split]))


@functools.lru_cache(maxsize=256)
def font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
