"""Hugging Face data sets whose columns are nobody's format: a picture, a question, an answer, under any names.

Where such a data set comes from (a folder, a name, an object in Python) is the source's `path`; see `triune.data.reading`.
One in a format of its own (verl, TRL, ...) is read by that format's adapter, from the same places.
"""

from __future__ import annotations

from typing import Literal

from triune.data.adapters import ADAPTERS
from triune.data.columns import NamedColumns


@ADAPTERS.register("hf")
class HuggingFace(NamedColumns):
    """Columns of the Image feature, class labels (by name) and structs of boxes are read as the Hub stores them."""

    examples = (
        {"image": {"bytes": None, "path": "picture.png"}, "question": "How many?", "answer": "3"},
        {"image": "picture.png", "question": "What is $x$?", "answer": r"\frac{1}{2}", "id": 7},
    )

    kind: Literal["hf"] = "hf"
