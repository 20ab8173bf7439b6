"""How a stored array is cut into chunks and shards, and how many bytes that makes.

A chunk is what can be read alone, a shard is one file. One frame of a large array is one chunk, so that
training may read frames in any order; small arrays are one chunk a clip. Measured reasons are in FORMAT.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cache_schema.format.encodings import SCALE

if TYPE_CHECKING:
    from cache_schema.format.encodings import StoredArray

PAGE_BYTES = 4096
"""A disk hands out no less, so an array below it gains nothing from a chunk a frame."""
SHARD_BYTES = 256 * 2**20
"""Cap of one file: large enough for sequential speed, small enough to assemble in memory."""
CHECKSUM_BYTES = 4
"""crc32c after every chunk and after every shard's index."""
INDEX_ENTRY_BYTES = 16
"""Offset and length of one chunk in a shard's index."""


class Layout(NamedTuple):
    """Chunk and shard shapes of one array; ``shards`` is None where every chunk is a file."""

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None

    @property
    def frames_a_file(self) -> int:
        """Frames that one file holds: what a writer must gather before it writes."""
        return (self.shards or self.chunks)[0]


def layout_of(stored: StoredArray, frames: int) -> Layout:
    """Chunks and shards of a clip of ``frames`` frames."""
    # Scales lie as their values do: whoever reads one frame reads no more of them than that.
    if stored.nbytes < PAGE_BYTES and not stored.name.endswith(SCALE):
        return Layout((frames, *stored.shape), None)
    shard_frames = min(frames, max(1, SHARD_BYTES // stored.nbytes))
    return Layout((1, *stored.shape), (shard_frames, *stored.shape))


def fill_value_of(stored: StoredArray) -> float | int | bool:
    """What an unwritten chunk would read as: NaN where the type has it, since no committed value is NaN."""
    dtype = np.dtype(stored.dtype)
    return float("nan") if dtype.kind == "f" else dtype.type(0).item()


def file_sizes(stored: StoredArray, frames: int) -> dict[str, int]:
    """Exact bytes of every file that holds values, by its path in the clip's folder.

    There is no compressor, so sizes are arithmetic: a file of another size holds something else.
    """
    layout = layout_of(stored, frames)
    sizes = {}
    for number, begin in enumerate(range(0, frames, layout.frames_a_file)):
        held = min(layout.frames_a_file, frames - begin)
        if layout.shards is None:
            nbytes = held * stored.nbytes + CHECKSUM_BYTES
        else:
            index = layout.frames_a_file * INDEX_ENTRY_BYTES + CHECKSUM_BYTES
            nbytes = held * (stored.nbytes + CHECKSUM_BYTES) + index
        sizes[".".join((f"{stored.name}/c", str(number), *("0" for _ in stored.shape)))] = nbytes
    return sizes
