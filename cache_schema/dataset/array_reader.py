"""Reading stored arrays: the chunks that are asked for, as manifest and ledger promise them.

There is no compressor and every place is known, so that a chunk is read with one positioned read and compared
with its checksum. A chunk that is not there is an error: nothing is ever filled in.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, NamedTuple

import google_crc32c
import numpy as np

from cache_schema.errors import DatasetError
from cache_schema.format.array_metadata import check_document
from cache_schema.format.clip_files import array_of, stored_length
from cache_schema.format.encodings import decode_values, stored_arrays
from cache_schema.format.layout import (
    CHECKSUM_BYTES,
    INDEX_ENTRY_BYTES,
    Layout,
    chunk_path,
    file_sizes,
    index_wrong,
    layout_of,
)
from cache_schema.format.ragged import SHAPE, FrameIndex, frame_index, wrongly_shared
from cache_schema.storage.safe_io import JSON_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import LedgerEntry
    from cache_schema.storage.backend import StorageBackend

OPEN_ARRAYS, OPEN_INDICES = 8192, 2048
"""Arrays and indices that are remembered, up to 30 kB each: more clips than one batch comes from."""


class _Promised(NamedTuple):
    """An array whose files are those that manifest and ledger promise."""

    length: int
    """Elements along the leading axis."""
    layout: Layout
    sizes: tuple[int, ...]
    """Bytes of every file of values."""


class ArrayReader:
    """Reads the stored arrays of a dataset's clips.

    Args:
        backend: Where the dataset is.
        entry: Returns the ledger entry of a clip.
    """

    def __init__(self, backend: StorageBackend, entry: Callable[[str], LedgerEntry]) -> None:
        self._backend, self._entry = backend, entry
        self._promised = functools.lru_cache(OPEN_ARRAYS)(self._find_promised)
        self._offsets = functools.lru_cache(OPEN_INDICES)(self._read_offsets)
        self.index = functools.lru_cache(OPEN_INDICES)(self._read_index)
        """``index(clip, spec)``: where the values of a ragged feature's frames are.

        Raises:
            DatasetError: The shapes of its frames are not those of the values that the ledger lists.
        """
        self.holders = functools.lru_cache(OPEN_INDICES)(self._read_holders)
        """``holders(clip, spec, index)``: (n) frames at which the frames' values of a feature are stored, as
        the feature ``index`` says.

        Raises:
            DatasetError: They are none that the format allows.
        """

    def stored(self, clip: str, spec: FeatureSpec, frames: slice | np.ndarray) -> dict[str, np.ndarray]:
        """Return values of a feature as they are stored; see ``LatentDataset.stored``."""
        arrays = stored_arrays(spec)
        if not spec.ragged:
            return {array.name: self._select(clip, array, frames) for array in arrays}
        shapes, offsets = self.index(clip, spec)
        numbers = np.arange(len(shapes))[frames]
        # Neighbours are read together.
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []
        spans = [slice(int(offsets[run[0]]), int(offsets[run[-1] + 1])) for run in runs]
        parts = [self._select(clip, arrays[0], span) for span in spans if span.start < span.stop]
        flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, arrays[0].dtype), *parts])
        return {spec.name: flat, spec.name + SHAPE: shapes[numbers].astype(np.int32)}

    def flat_values(self, clip: str, spec: FeatureSpec, values: slice) -> np.ndarray:
        """Return values of a ragged feature wherever its frames begin; of a triangle the stored ones."""
        stored = self._select(clip, stored_arrays(spec)[0], values)
        return stored if spec.encoding == "lower-triangle" else decode_values(spec, stored, stored.shape)

    def check(self, clip: str, stored: StoredArray) -> None:
        """Check an array for programs that read it with another library.

        Raises:
            DatasetError: Its zarr.json is not as promised, or a file is missing or has another size.
        """
        promised = self._promised(clip, stored)
        try:
            document = self._backend.read(f"clips/{clip}/{stored.name}/zarr.json", JSON_BYTES)
            wrong = check_document(document, stored, promised.length)
            if wrong is not None:
                raise ValueError(f"its zarr.json {wrong}")
        except (ValueError, FileNotFoundError) as error:
            raise DatasetError(
                f"clip {clip!r} has no readable array {stored.name!r}: {error}",
                expected=f"{stored.dtype}{(promised.length, *stored.shape)}, as the manifest promises",
                repair=_repair(clip),
            ) from error
        for number, nbytes in enumerate(promised.sizes):
            if self._backend.size(f"clips/{clip}/{chunk_path(stored, number)}") != nbytes:
                raise self._changed(clip, stored, number, nbytes)

    def _select(self, clip: str, stored: StoredArray, elements: slice | np.ndarray) -> np.ndarray:
        """Read elements along the leading axis of an array, (n, *shape)."""
        length, layout, _ = self._promised(clip, stored)
        if isinstance(elements, slice):
            begin, end, step = elements.indices(length)
            if step == 1:
                return self._read_span(clip, stored, begin, max(begin, end))
            elements = np.arange(begin, end, step)
        values = np.empty((len(elements), *stored.shape), stored.dtype)
        files = elements // layout.file_length
        for number in np.unique(files).tolist():
            here = files == number
            first = number * layout.file_length
            chunks, within = np.divmod(elements[here] - first, layout.chunks[0])
            wanted, place = np.unique(chunks, return_inverse=True)
            values[here] = self._read_chunks(clip, stored, number, wanted)[place, within]
        return values

    def _read_span(self, clip: str, stored: StoredArray, begin: int, end: int) -> np.ndarray:
        """Read neighbouring elements, (end - begin, *shape)."""
        _, layout, _ = self._promised(clip, stored)
        chunk_length = layout.chunks[0]
        parts = [np.empty((0, *stored.shape), stored.dtype)]
        while begin < end:
            number, within = divmod(begin, layout.file_length)
            count = min(end - begin, layout.file_length - within)
            first, last = within // chunk_length, -(-(within + count) // chunk_length)
            rows = self._read_chunks(clip, stored, number, np.arange(first, last))
            skipped = within - first * chunk_length
            parts.append(rows.reshape(-1, *stored.shape)[skipped : skipped + count])
            begin += count
        return parts[1].astype(stored.dtype) if len(parts) == 2 else np.concatenate(parts)

    def _read_chunks(self, clip: str, stored: StoredArray, number: int, chunks: np.ndarray) -> np.ndarray:
        """Read chunks of one file, in ascending order, and compare them with their checksums.

        Returns:
            (chunks, elements of a chunk, *shape), little-endian.
        """
        length = self._promised(clip, stored).layout.chunks[0]
        nbytes = length * stored.nbytes
        stride = nbytes + CHECKSUM_BYTES
        offsets = self._offsets(clip, stored, number)
        places = chunks * stride if offsets is None else offsets[chunks]
        # What lies together is read together.
        edges = [0, *(np.flatnonzero(np.diff(places) != stride) + 1).tolist(), len(places)]
        ranges = [(int(places[begin]), (end - begin) * stride) for begin, end in itertools.pairwise(edges)]
        content = self._read(clip, stored, number, ranges)
        rows = np.frombuffer(content, np.uint8).reshape(len(chunks), stride)
        values = np.ascontiguousarray(rows[:, :nbytes])
        checksums = np.ascontiguousarray(rows[:, nbytes:]).view("<u4")[:, 0].tolist()
        if any(google_crc32c.value(row) != sum_ for row, sum_ in zip(values, checksums, strict=True)):
            raise self._broken(clip, stored, "a chunk does not fit its checksum")
        dtype = np.dtype(stored.dtype).newbyteorder("<")
        return values.view(dtype).reshape(len(chunks), length, *stored.shape)

    def _find_promised(self, clip: str, stored: StoredArray) -> _Promised:
        """Compare the files that the ledger lists with those that follow from the manifest.

        Sizes follow from the manifest and the clip's length: a ledger that lies cannot make a reader ask for
        more memory than the files themselves take.
        """
        entry = self._entry(clip)
        length = stored_length(stored, entry.clip.frames, entry.values)
        sizes = file_sizes(stored, length)
        recorded = {path: file.nbytes for path, file in entry.files.items() if array_of(path) == stored.name}
        recorded.pop(f"{stored.name}/zarr.json", None)
        if recorded != sizes:
            raise DatasetError(
                f"clip {clip!r}: the ledger lists {len(recorded)} files of values of the array "
                f"{stored.name!r} with {sum(recorded.values())} bytes",
                expected=f"{len(sizes)} with {sum(sizes.values())} bytes, for {length} {stored.leading}s",
                repair=_repair(clip),
            )
        return _Promised(length, layout_of(stored, length), tuple(sizes.values()))

    def _read_offsets(self, clip: str, stored: StoredArray, number: int) -> np.ndarray | None:
        """Read where the chunks of a file begin, (chunks); None where one follows the other from 0 on."""
        promised = self._promised(clip, stored)
        entries = promised.layout.index_entries
        if not entries:
            return None
        held = min(promised.layout.file_length, promised.length - number * promised.layout.file_length)
        chunks = promised.layout.chunks_in(held)
        nbytes = entries * INDEX_ENTRY_BYTES + CHECKSUM_BYTES
        index = self._read(clip, stored, number, [(promised.sizes[number] - nbytes, nbytes)])
        stride = promised.layout.chunks[0] * stored.nbytes + CHECKSUM_BYTES
        wrong = index_wrong(index, entries, chunks, stride)
        if wrong is not None:
            raise self._broken(clip, stored, f"{chunk_path(stored, number)} {wrong}")
        offsets = np.frombuffer(index, "<u8", 2 * chunks)[::2].astype(np.int64)
        return None if (offsets == np.arange(chunks) * stride).all() else offsets

    def _read(self, clip: str, stored: StoredArray, number: int, ranges: list[tuple[int, int]]) -> bytes:
        """Read parts of a file of values, one behind the other."""
        nbytes = self._promised(clip, stored).sizes[number]
        try:
            return self._backend.read_ranges(f"clips/{clip}/{chunk_path(stored, number)}", nbytes, ranges)
        except FileNotFoundError as error:
            raise self._changed(clip, stored, number, nbytes) from error
        except OSError as error:
            raise self._broken(clip, stored, str(error)) from error

    def _read_index(self, clip: str, spec: FeatureSpec) -> FrameIndex:
        entry = self._entry(clip)
        flat, shapes = stored_arrays(spec)
        values = stored_length(flat, entry.clip.frames, entry.values)
        try:
            index = frame_index(spec, self._select(clip, shapes, slice(None)))
            if index.offsets[-1] != values:
                raise ValueError(f"they add up to {index.offsets[-1]}")
        except ValueError as error:
            raise DatasetError(
                f"clip {clip!r}, feature {spec.name!r}: the shapes of its frames are not those of its "
                f"values: {error}",
                expected=f"shapes that add up to the {values} values that the ledger lists",
                repair=_repair(clip),
            ) from error
        return index

    def _read_holders(self, clip: str, spec: FeatureSpec, index: FeatureSpec) -> np.ndarray:
        holders = self.stored(clip, index, slice(None))[index.name].astype(np.int64)
        wrong = wrongly_shared(spec, holders, self.index(clip, spec).shapes)
        if wrong is not None:
            raise DatasetError(
                f"clip {clip!r}, feature {spec.name!r}: {wrong}, as {index.name!r} says",
                expected="a frame's value at that frame, or at an earlier one that stores its own",
                repair=_repair(clip),
            )
        return holders

    def _changed(self, clip: str, stored: StoredArray, number: int, nbytes: int) -> DatasetError:
        return DatasetError(
            f"clip {clip!r}, feature {stored.name!r}: {chunk_path(stored, number)} is missing or has another "
            "size",
            expected=f"a file of {nbytes} bytes, as manifest and ledger say",
            repair=_repair(clip),
        )

    def _broken(self, clip: str, stored: StoredArray, wrong: str) -> DatasetError:
        return DatasetError(
            f"clip {clip!r}, feature {stored.name!r}: the stored bytes cannot be decoded: {wrong}",
            expected="the bytes that were committed, with the checksum of every chunk intact",
            repair=_repair(clip),
        )


def _repair(clip: str) -> str:
    return f"run `teachonce repair`, which sets clip {clip} aside, then extract or pull it again"
