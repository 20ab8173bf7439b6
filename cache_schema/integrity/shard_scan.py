"""One file of stored values, read once: its digest, the checksums of its chunks, the range of its values.

Zarr would decode every chunk into an array of its own; there is no compressor, so a file can be checked as it
is, about as fast as it can be hashed. FORMAT.md has the layout: chunks of equal length, a crc32c after
each, and in a shard an index of their places at the end.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import google_crc32c
import numpy as np

from cache_schema.format.encodings import SCALE, STEPS, largest_scale
from cache_schema.format.layout import CHECKSUM_BYTES, index_wrong, layout_of
from cache_schema.format.ragged import SHAPE

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from cache_schema.format.clip_files import ChunkFile
    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec

BLOCK_BYTES = 2**18
"""Bytes that are checked together: they stay in a core's cache between the hash and the checks."""


class ScannedFile(NamedTuple):
    """Result of reading a file."""

    sha256: str
    wrong: str | None
    """What no writer of this format would have written; None for nothing."""


def scan(path: Path, promised: ChunkFile) -> ScannedFile:
    """Read a file of the promised size.

    Raises:
        OSError: It cannot be read.
    """
    layout = layout_of(promised.stored, promised.length)
    chunks = layout.chunks_in(promised.held)
    nbytes = layout.chunks[0] * promised.stored.nbytes
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        wrong = _chunks_wrong(file, promised, chunks, nbytes, digest)
        rest = file.read()
        digest.update(rest)
    if wrong is None:
        wrong = index_wrong(rest, layout.index_entries, chunks, nbytes + CHECKSUM_BYTES)
    return ScannedFile(digest.hexdigest(), wrong)


def _chunks_wrong(
    file: FileIO, promised: ChunkFile, chunks: int, nbytes: int, digest: hashlib._Hash
) -> str | None:
    stride = nbytes + CHECKSUM_BYTES
    block = max(1, BLOCK_BYTES // stride)
    buffer = np.empty((min(block, chunks), stride), np.uint8)
    bounds = _bounds(promised.spec, promised.stored)
    padding = chunks * nbytes - promised.held * promised.stored.nbytes
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
        if begin + len(rows) == chunks and rows[-1, nbytes - padding : nbytes].any():
            wrong = wrong or "holds values beyond its end"
    return wrong


def _bounds(spec: FeatureSpec, stored: StoredArray) -> list[tuple[str, int | None, int]]:
    """Return ranges that values must keep, as (view, lowest, highest).

    Finite floats are recognised by their bits, for the price of two maxima: seen as signed integers, positive
    numbers end where infinity begins; seen as unsigned ones, negative numbers do.
    """
    width = np.dtype(stored.dtype).itemsize
    if stored.name.endswith(SCALE):
        return [(f"<i{width}", 0, int(largest_scale(spec.dtype).view(np.int32)))]
    if stored.name.endswith(SHAPE):
        return [(f"<i{width}", 0, np.iinfo(np.int32).max)]
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
