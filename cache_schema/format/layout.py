"""How a stored array is cut into chunks and shards, and how many bytes that makes.

A chunk is what can be read alone, a shard is one file. One frame of a large array is one chunk, so that
training may read frames in any order; small arrays are one chunk a clip; the flat values of a ragged feature
are cut into chunks of a fixed number of values. FORMAT.md has the measurements behind this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import google_crc32c
import numpy as np

from cache_schema.format.encodings import SCALE

if TYPE_CHECKING:
    from cache_schema.format.encodings import StoredArray

PAGE_BYTES = 4096
"""A disk reads no less, so an array below it gains nothing from a chunk a frame."""
CHUNK_VALUES = 65_536
"""Values of one chunk of a ragged feature."""
SHARD_BYTES = 256 * 2**20
"""Cap of one file: large enough for sequential speed, small enough to check and to send at a time."""
CHECKSUM_BYTES = 4
"""crc32c after every chunk and after every shard's index."""
ABSENT = 2**64 - 1
"""Offset and length, in a shard's index, of a chunk beyond the end of the array."""
INDEX_ENTRY_BYTES = 16
"""Offset and length of one chunk in a shard's index."""


class Layout(NamedTuple):
    """Chunk and shard shapes of one array; ``shards`` is None where every chunk is a file."""

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None

    @property
    def file_length(self) -> int:
        """Elements along the leading axis that one file has room for."""
        return (self.shards or self.chunks)[0]

    @property
    def index_entries(self) -> int:
        """Chunks that the index of every file has room for; 0 where files have no index."""
        return 0 if self.shards is None else self.shards[0] // self.chunks[0]

    def chunks_in(self, held: int) -> int:
        """Return the number of chunks of a file that holds so many elements; the last may be padded."""
        return -(-held // self.chunks[0])


def layout_of(stored: StoredArray, length: int) -> Layout:
    """Return chunks and shards of an array with ``length`` elements along its leading axis."""
    if stored.leading == "value":
        if length <= CHUNK_VALUES:
            return Layout((max(1, length),), None)
        chunks = min(-(-length // CHUNK_VALUES), max(1, SHARD_BYTES // (CHUNK_VALUES * stored.nbytes)))
        return Layout((CHUNK_VALUES,), (chunks * CHUNK_VALUES,))
    # Scales are cut as their values are: reading one frame reads no more of them than that.
    if stored.nbytes < PAGE_BYTES and not stored.name.endswith(SCALE):
        return Layout((length, *stored.shape), None)
    shard_length = min(length, max(1, SHARD_BYTES // stored.nbytes))
    return Layout((1, *stored.shape), (shard_length, *stored.shape))


def fill_value_of(stored: StoredArray) -> float | int | bool:
    """Return the value that Zarr reads where a chunk is missing.

    It is NaN where the dtype has it, since no committed value is; 0 in a flat array, whose last chunk is
    padded with it.
    """
    dtype = np.dtype(stored.dtype)
    return float("nan") if dtype.kind == "f" and stored.leading == "frame" else dtype.type(0).item()


def file_sizes(stored: StoredArray, length: int) -> dict[str, int]:
    """Return the exact bytes of every file that holds values, by its path in the clip's folder.

    There is no compressor, so sizes are arithmetic: a file of another size is damaged.
    """
    layout = layout_of(stored, length)
    chunk_bytes = layout.chunks[0] * stored.nbytes + CHECKSUM_BYTES
    index_bytes = layout.index_entries * INDEX_ENTRY_BYTES + CHECKSUM_BYTES if layout.shards else 0
    sizes = {}
    for number, begin in enumerate(range(0, length, layout.file_length)):
        chunks = layout.chunks_in(min(layout.file_length, length - begin))
        sizes[chunk_path(stored, number)] = chunks * chunk_bytes + index_bytes
    return sizes


def chunk_path(stored: StoredArray, number: int) -> str:
    """Return the path of an array's file of values with this number, in the clip's folder."""
    return ".".join((f"{stored.name}/c", str(number), *("0" for _ in stored.shape)))


def index_wrong(index: bytes, entries: int, chunks: int, stride: int) -> str | None:
    """Return what is wrong with the end of a file of values; None for nothing.

    Args:
        index: What follows the file's chunks.
        entries: Chunks that its index has room for; 0 of a file without index.
        chunks: Chunks that the file holds.
        stride: Bytes of a chunk and its checksum.
    """
    if not entries:
        return "is longer than its values" if index else None
    if len(index) != entries * INDEX_ENTRY_BYTES + CHECKSUM_BYTES:
        return "has an index of another length"
    if google_crc32c.value(index[:-CHECKSUM_BYTES]) != int.from_bytes(index[-CHECKSUM_BYTES:], "little"):
        return "has an index that its checksum does not fit"
    table = np.frombuffer(index, "<u8", entries * 2).reshape(entries, 2)  # offset, length
    # In any order, but every chunk once: two frames must not share one.
    offsets = np.arange(chunks, dtype=np.uint64) * stride
    present = table[:chunks]
    if (np.sort(present[:, 0]) != offsets).any() or (present[:, 1] != stride).any():
        return "has an index that leads elsewhere"
    return "has an index of more chunks than it holds" if (table[chunks:] != ABSENT).any() else None
