"""A feature of many clips as one dask array: frames are read, checked and decoded when they are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
from dask.base import tokenize

from cache_schema.format.layout import SHARD_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.features import FeatureSpec


def lazy_array(dataset: LatentDataset, spec: FeatureSpec, clips: Sequence[str]) -> da.Array:
    """All frames of ``clips``, one after the other: (frames, *shape) in blocks of at most a shard's bytes."""
    parts = []
    for clip in clips:
        values = _Clip(dataset, clip, spec)
        parts.append(
            da.from_array(
                values,
                chunks=(max(1, SHARD_BYTES // spec.nbytes), *spec.shape),
                name=f"{spec.name}-{tokenize(str(dataset.backend), dataset.entry(clip).digest, spec.name)}",
                fancy=False,
                meta=np.empty((0,) * values.ndim, values.dtype),
            )
        )
    return da.concatenate(parts)


class _Clip:
    """One feature of one clip, as something that dask can cut."""

    def __init__(self, dataset: LatentDataset, clip: str, spec: FeatureSpec) -> None:
        self._dataset, self._clip, self._feature = dataset, clip, spec.name
        self.shape = (dataset.clip(clip).frames, *spec.shape)
        self.dtype = np.dtype(spec.dtype)
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[slice | int, ...]) -> np.ndarray:
        frames, *rest = index
        values = self._dataset.read(self._clip, self._feature, frames)
        return values[tuple(rest) if isinstance(frames, int) else (slice(None), *rest)]
