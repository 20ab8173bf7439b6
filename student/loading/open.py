"""The datasets of a run: one, or several side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.dataset.reader import LatentDataset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def open_datasets(where: str | Path, others: Sequence[str | Path] = ()) -> LatentDataset:
    """Open a dataset, joined with others on clip and sample where there are others.

    Args:
        where: Folder or URL of the first dataset.
        others: The same of those beside it.

    Raises:
        DatasetError: There is no dataset, or it is of an unknown format.
        IdentityError: They do not hold the same clips and samples.
    """
    if not others:
        return LatentDataset.open(where)
    from cache_schema.dataset.join import open_dataset  # ty: ignore[import-not-found]

    return open_dataset(where, *others)


def stores(dataset: LatentDataset, feature: str) -> bool:
    """Return whether a dataset, or one of those that are joined, stores a feature."""
    return any(one.manifest.feature(feature) is not None for one in dataset.datasets)
