"""Frames of a clip in blocks that fit into memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_schema.dataset.reader import LatentDataset

BLOCK_BYTES = 64 * 2**20
"""Values of one feature that are in memory at a time, as float64."""


def frame_blocks(dataset: LatentDataset, clip: str, feature: str, *, every: int = 1) -> Iterator[slice]:
    """Yield every ``every``-th frame of a clip, in slices of a few frames.

    The values of a slice take at most ``BLOCK_BYTES`` as float64, or it is a single frame.
    """
    spec = dataset.feature(feature)
    frames = -(-dataset.clip(clip).frames // every)
    if spec.ragged:
        sizes = dataset.frame_index(clip, feature).shapes.prod(axis=1)
        # What readers get: of frames that share a value, too.
        sizes = sizes[dataset.stored_at(clip, feature)][::every]
    else:
        sizes = np.full(frames, math.prod(spec.fixed_shape))
    ends = np.cumsum(sizes)
    begin = 0
    while begin < frames:
        limit = ends[begin] - sizes[begin] + BLOCK_BYTES // 8
        end = max(begin + 1, int(np.searchsorted(ends, limit, side="right")))
        yield slice(begin * every, (end - 1) * every + 1, every)
        begin = end
