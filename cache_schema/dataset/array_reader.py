"""Reading stored arrays: nothing is opened that is not as the manifest and the ledger promise."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import zarr

from cache_schema.errors import DatasetError
from cache_schema.format.array_metadata import check_document
from cache_schema.format.clip_files import array_of, stored_length
from cache_schema.format.encodings import decode_values, stored_arrays
from cache_schema.format.layout import file_sizes
from cache_schema.format.ragged import SHAPE, FrameIndex, frame_index
from cache_schema.storage.safe_io import JSON_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import LedgerEntry
    from cache_schema.storage.backend import StorageBackend

OPEN_ARRAYS, OPEN_INDICES = 8192, 2048
"""Arrays and frame indices that are remembered, up to 30 kB each: more clips than one batch comes from."""


class ArrayReader:
    """Reads the stored arrays of a dataset's clips.

    Args:
        backend: Where the dataset is.
        entry: Returns the ledger entry of a clip.
    """

    def __init__(self, backend: StorageBackend, entry: Callable[[str], LedgerEntry]) -> None:
        self._backend, self._entry = backend, entry
        self.array = functools.lru_cache(OPEN_ARRAYS)(self._open)
        """``array(clip, stored)``: one array of a clip, opened for reading.

        Raises:
            DatasetError: Its metadata is not as promised, or a file that the ledger lists is missing or has
                another size, so that reading it would yield fill values.
        """
        self.index = functools.lru_cache(OPEN_INDICES)(self._read_index)
        """``index(clip, spec)``: where the values of a ragged feature's frames are.

        Raises:
            DatasetError: The shapes of its frames are not those of the values that the ledger lists.
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

    def _open(self, clip: str, stored: StoredArray) -> zarr.Array:
        length = self._check_files(clip, stored)
        folder = f"clips/{clip}/{stored.name}"
        try:
            # Compared before Zarr acts on it.
            document = self._backend.read(f"{folder}/zarr.json", JSON_BYTES)
            wrong = check_document(document, stored, length)
            if wrong is not None:
                raise ValueError(f"its zarr.json {wrong}")
            with self._backend.errors():
                return zarr.open_array(self._backend.zarr_store(folder), mode="r", zarr_format=3)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise DatasetError(
                f"clip {clip!r} has no readable array {stored.name!r}: {error}",
                expected=f"{stored.dtype}{(length, *stored.shape)}, as the manifest promises",
                repair=_repair(clip),
            ) from error

    def _check_files(self, clip: str, stored: StoredArray) -> int:
        """Check the files of an array; return the length of its leading axis."""
        entry = self._entry(clip)
        length = stored_length(stored, entry.clip.frames, entry.values)
        sizes = file_sizes(stored, length)
        recorded = {path: file.nbytes for path, file in entry.files.items() if array_of(path) == stored.name}
        document = f"{stored.name}/zarr.json"
        if recorded.keys() != {document, *sizes}:
            raise DatasetError(
                f"clip {clip!r}: the ledger lists {len(recorded)} files of the array {stored.name!r}",
                expected=f"{len(sizes) + 1}: one zarr.json, and files for {length} {stored.leading}s",
                repair=_repair(clip),
            )
        # Sizes follow from the manifest and the clip's length: a ledger that lies cannot make a reader
        # ask for more memory than the files themselves take.
        for path, nbytes in ({document: recorded[document]} | sizes).items():
            if recorded[path] != nbytes or self._backend.size(f"clips/{clip}/{path}") != nbytes:
                raise DatasetError(
                    f"clip {clip!r}, feature {stored.name!r}: {path} is missing or has another size",
                    expected=f"a file of {nbytes} bytes, as manifest and ledger say",
                    repair=_repair(clip),
                )
        return length

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

    def _select(self, clip: str, stored: StoredArray, elements: slice | np.ndarray) -> np.ndarray:
        """Read elements along the leading axis of an array."""
        array = self.array(clip, stored)
        try:
            with self._backend.errors():
                if isinstance(elements, np.ndarray):
                    return np.asarray(array.oindex[elements])
                return np.asarray(array[elements])
        except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
            raise DatasetError(
                f"clip {clip!r}, feature {stored.name!r}: the stored bytes cannot be decoded: {error}",
                expected="the bytes that were committed, with the checksum of every chunk intact",
                repair=_repair(clip),
            ) from error


def _repair(clip: str) -> str:
    return f"run `teachonce repair`, which sets clip {clip} aside, then extract or pull it again"
