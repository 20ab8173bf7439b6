"""What training reads from: one dataset, or several joined side by side."""

from __future__ import annotations

from cache_schema.dataset.join import JoinedDataset
from cache_schema.dataset.reader import LatentDataset

Dataset = LatentDataset | JoinedDataset


def stores(dataset: Dataset, feature: str) -> bool:
    """Return whether a dataset, or one of those that are joined, stores a feature."""
    return any(one.manifest.feature(feature) is not None for one in dataset.datasets)
