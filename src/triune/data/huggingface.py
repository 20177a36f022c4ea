"""Hugging Face data sets as rows. The only module that imports `datasets`, which the extra of that name installs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from triune.core.errors import DataError
from triune.data.reading import HUB

BATCH = 64


def open_dataset(location: str) -> Any:
    """The `Dataset` at FOLDER, FOLDER@SPLIT (saved by `save_to_disk`, or data files as on the Hub) or hf:NAME[:CONFIG]@SPLIT.

    Names are looked up as `datasets` does: in its cache, and on the Hub unless HF_HUB_OFFLINE is set. Raises DataError.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{location} is a Hugging Face data set: pip install 'triune[datasets]'") from error
    name, _, split = location.rpartition("@") if "@" in location else (location, "", "")
    try:
        if location.startswith(HUB):
            name, _, config = name.removeprefix(HUB).partition(":")
            found = datasets.load_dataset(name, config or None)
        elif any((Path(name) / file).is_file() for file in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name)
    except Exception as error:
        raise DataError(f"{location} cannot be opened as a Hugging Face data set: {error}") from error
    if not isinstance(found, Mapping):
        if split:
            raise DataError(f"{location}: this data set has no splits; name it without @{split}")
        return found
    if split not in found:
        raise DataError(
            f"{location}: say which split, as in {name}@{next(iter(found))}; it has {list(found)}"
        )
    return found[split]


def size(dataset: Any) -> int:
    """Bytes of all its columns together, wherever they are."""
    return int(getattr(getattr(dataset, "data", None), "nbytes", 0))


def rows(dataset: Any, name: str) -> Iterator[dict[str, Any]]:
    """The rows with every picture as {bytes, path}, undecoded, and every class label by its name. Raises DataError."""
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"{name} is a {type(dataset).__name__}; give one split of a data set that has a length "
            "(a Dataset, not an IterableDataset or a DatasetDict)"
        )
    labels = {
        column: feature.names
        for column, feature in dataset.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    number = 0
    try:
        for table in dataset.with_format("arrow").iter(BATCH):
            for row in table.to_pylist():
                for column, names in labels.items():
                    if row[column] is not None:
                        row[column] = names[row[column]]
                yield row
                number += 1
    except (OSError, ValueError) as error:
        raise DataError(f"{name}, row {number} or later: cannot be read: {error}") from error
