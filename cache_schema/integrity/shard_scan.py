"""One file of stored values, read once: its digest, the checksums of its chunks, the range of its values.

Zarr would decode every chunk into an array of its own; there is no compressor, so a file can be looked at
as it lies, about as fast as it can be hashed. FORMAT.md says what lies where: chunks of equal length, a
crc32c after each, and in a shard an index of their places at the end.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import google_crc32c
import numpy as np

from cache_schema.format.encodings import SCALE, STEPS
from cache_schema.format.layout import CHECKSUM_BYTES, INDEX_ENTRY_BYTES, layout_of

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec

BLOCK_BYTES = 2**18
"""Bytes looked at together: they stay in a core's cache between the hash and the checks."""
_ABSENT = 2**64 - 1
"""Offset and length, in a shard's index, of a chunk beyond the clip's last frame."""


class ChunkFile(NamedTuple):
    """A file of values that a manifest and a clip's length promise."""

    spec: FeatureSpec
    stored: StoredArray
    frames: int
    """Frames of the clip."""
    held: int
    """Frames of the clip that lie in this file."""
    nbytes: int
    """Size of the file."""


class Findings(NamedTuple):
    """What reading a file has shown."""

    sha256: str
    wrong: str | None
    """What no honest writer would have written; None for nothing."""


def examine(path: Path, promised: ChunkFile) -> Findings:
    """Read a file of the promised size.

    Raises:
        OSError: It cannot be read.
    """
    layout = layout_of(promised.stored, promised.frames)
    chunks = promised.held // layout.chunks[0]
    nbytes = layout.chunks[0] * promised.stored.nbytes
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        wrong = _chunks_wrong(file, promised, chunks, nbytes, digest)
        rest = file.read()
        digest.update(rest)
    if wrong is None:
        wrong = _index_wrong(rest, layout.frames_a_file if layout.shards else 0, chunks, nbytes)
    return Findings(digest.hexdigest(), wrong)


def _chunks_wrong(
    file: FileIO, promised: ChunkFile, chunks: int, nbytes: int, digest: hashlib._Hash
) -> str | None:
    stride = nbytes + CHECKSUM_BYTES
    block = max(1, BLOCK_BYTES // stride)
    buffer = np.empty((min(block, chunks), stride), np.uint8)
    bounds = _bounds(promised.spec, promised.stored)
    wrong = None
    for begin in range(0, chunks, block):
        rows = buffer[: chunks - begin]
        together = rows.reshape(-1).data
        if file.readinto(together) < together.nbytes:
            return "ends early"
        digest.update(together)
        sums = rows[:, nbytes:].view("<u4")[:, 0]
        if any(google_crc32c.value(row[:nbytes]) != stored for row, stored in zip(rows, sums, strict=True)):
            wrong = wrong or "holds a chunk that its checksum does not fit"
        for view, lowest, highest in bounds:
            values = rows[:, :nbytes].view(view)
            if (lowest is not None and values.min() < lowest) or values.max() > highest:
                wrong = (
                    wrong or f"holds values that no {promised.spec.encoding} {promised.stored.dtype} may be"
                )
    return wrong


def _index_wrong(index: bytes, places: int, chunks: int, nbytes: int) -> str | None:
    """Look at the index of a shard for ``places`` chunks, of which the first ``chunks`` must be there."""
    if not places:
        return "is longer than its values" if index else None
    if len(index) != places * INDEX_ENTRY_BYTES + CHECKSUM_BYTES:
        return "has an index of another length"
    if google_crc32c.value(index[:-CHECKSUM_BYTES]) != int.from_bytes(index[-CHECKSUM_BYTES:], "little"):
        return "has an index that its checksum does not fit"
    entries = np.frombuffer(index, "<u8", places * 2).reshape(places, 2)  # offset, length
    stride = nbytes + CHECKSUM_BYTES
    # In any order, but every chunk once: two frames must not share one.
    offsets = np.arange(chunks, dtype=np.uint64) * stride
    there = entries[:chunks]
    if (np.sort(there[:, 0]) != offsets).any() or (there[:, 1] != stride).any():
        return "has an index that leads elsewhere"
    return "has an index of more chunks than it holds" if (entries[chunks:] != _ABSENT).any() else None


def _bounds(spec: FeatureSpec, stored: StoredArray) -> list[tuple[str, int | None, int]]:
    """Ranges that values must keep, as (view, lowest, highest).

    Finite floats are told by their bits, for the price of two maxima: seen as signed integers, positive
    numbers end where infinity begins; seen as unsigned ones, negative numbers do.
    """
    width = np.dtype(stored.dtype).itemsize
    if stored.name.endswith(SCALE):
        return [(f"<i{width}", 0, int(_largest_scale(spec.dtype).view(np.int32)))]
    if spec.encoding == "int8-per-channel":
        return [("i1", -STEPS, STEPS)]
    if stored.dtype == "bool":
        return [("u1", None, 1)]
    if spec.encoding == "bfloat16":
        infinity = 0x7F80
    elif np.dtype(stored.dtype).kind == "f":
        infinity = int(np.array(np.inf, stored.dtype).view(f"u{width}"))
    else:
        return []
    sign = 1 << (8 * width - 1)
    return [(f"<i{width}", None, infinity - 1), (f"<u{width}", None, sign + infinity - 1)]


def _largest_scale(dtype: str) -> np.float32:
    """Scale of which ``STEPS`` still fit ``dtype``."""
    largest = np.float32(np.finfo(dtype).max)
    scale = np.nextafter(largest / np.float32(STEPS), np.float32(np.inf))
    with np.errstate(over="ignore"):
        while not np.isfinite((np.float32(STEPS) * scale).astype(dtype)):
            scale = np.nextafter(scale, np.float32(0))
    return scale
