"""How a feature's array is cut into chunks and shards.

A chunk is what can be read alone, a shard is one file. One frame of a large feature is one chunk, so that
training may read frames in any order; small features are one chunk a clip. Measured reasons are in FORMAT.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from cache_schema.features import FeatureSpec

PAGE_BYTES = 4096
"""A disk hands out no less, so a feature below it gains nothing from a chunk a frame."""
SHARD_BYTES = 256 * 2**20
"""Cap of one file: large enough for sequential speed, small enough to assemble in memory."""


class Layout(NamedTuple):
    """Chunk and shard shapes of one array; ``shards`` is None where every chunk is a file."""

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None

    @property
    def frames_a_file(self) -> int:
        """Frames that one file holds: what a writer must gather before it writes."""
        return (self.shards or self.chunks)[0]


def layout_of(spec: FeatureSpec, frames: int) -> Layout:
    """Chunks and shards of a clip of ``frames`` frames."""
    if spec.nbytes < PAGE_BYTES:
        return Layout((frames, *spec.shape), None)
    shard_frames = min(frames, max(1, SHARD_BYTES // spec.nbytes))
    return Layout((1, *spec.shape), (shard_frames, *spec.shape))


def fill_value_of(spec: FeatureSpec) -> float | int | bool:
    """What an unwritten chunk would read as: NaN where the type has it, since no committed value is NaN."""
    dtype = np.dtype(spec.dtype)
    return float("nan") if dtype.kind == "f" else dtype.type(0).item()
