"""Latent datasets: what a driving teacher computed, stored once, for any number of students. No torch.

Names of the public interface are imported when they are used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cache_schema.dataset.join import JoinedDataset, open_dataset
    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.dataset.writer import DatasetWriter
    from cache_schema.errors import TeachonceError
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import ClipInfo
    from cache_schema.format.manifest import Manifest

__all__ = [
    "ClipInfo",
    "DatasetWriter",
    "FeatureSpec",
    "JoinedDataset",
    "LatentDataset",
    "Manifest",
    "TeachonceError",
    "open_dataset",
]

_MODULES = {
    "ClipInfo": "cache_schema.format.ledger",
    "DatasetWriter": "cache_schema.dataset.writer",
    "FeatureSpec": "cache_schema.format.features",
    "JoinedDataset": "cache_schema.dataset.join",
    "LatentDataset": "cache_schema.dataset.reader",
    "Manifest": "cache_schema.format.manifest",
    "TeachonceError": "cache_schema.errors",
    "open_dataset": "cache_schema.dataset.join",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
