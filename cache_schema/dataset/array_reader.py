"""Opening stored arrays: nothing is opened that is not as the manifest and the ledger promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import zarr

from cache_schema.errors import DatasetError
from cache_schema.format.array_metadata import check_document
from cache_schema.format.clip_files import array_of, stored_length
from cache_schema.format.layout import file_sizes
from cache_schema.storage.safe_io import JSON_BYTES

if TYPE_CHECKING:
    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.ledger import LedgerEntry
    from cache_schema.storage.backend import StorageBackend


def open_array(backend: StorageBackend, entry: LedgerEntry, stored: StoredArray) -> zarr.Array:
    """Open one array of a clip for reading.

    Raises:
        DatasetError: Its metadata is not as promised, or a file that the ledger lists is missing or has
            another size, so that reading it would yield fill values.
    """
    clip = entry.clip.name
    length = _check_files(backend, entry, stored)
    folder = f"clips/{clip}/{stored.name}"
    try:
        # Compared before Zarr acts on it.
        document = backend.read(f"{folder}/zarr.json", JSON_BYTES)
        wrong = check_document(document, stored, length)
        if wrong is not None:
            raise ValueError(f"its zarr.json {wrong}")
        with backend.errors():
            return zarr.open_array(backend.zarr_store(folder), mode="r", zarr_format=3)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise DatasetError(
            f"clip {clip!r} has no readable array {stored.name!r}: {error}",
            expected=f"{stored.dtype}{(length, *stored.shape)}, as the manifest promises",
            repair=repair_of(clip),
        ) from error


def select(
    backend: StorageBackend, clip: str, array: zarr.Array, name: str, elements: slice | np.ndarray
) -> np.ndarray:
    """Read elements along the leading axis of the open array called ``name``.

    Raises:
        DatasetError: The stored bytes are not those that were written.
    """
    try:
        with backend.errors():
            if isinstance(elements, np.ndarray):
                return np.asarray(array.oindex[elements])
            return np.asarray(array[elements])
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise DatasetError(
            f"clip {clip!r}, feature {name!r}: the stored bytes cannot be decoded: {error}",
            expected="the bytes that were committed, with the checksum of every chunk intact",
            repair=repair_of(clip),
        ) from error


def repair_of(clip: str) -> str:
    """Return what to do about a damaged clip."""
    return f"run `teachonce repair`, which sets clip {clip} aside, then extract or pull it again"


def _check_files(backend: StorageBackend, entry: LedgerEntry, stored: StoredArray) -> int:
    """Check the files of an array; return the length of its leading axis."""
    clip = entry.clip.name
    length = stored_length(stored, entry.clip.frames, entry.values)
    sizes = file_sizes(stored, length)
    recorded = {path: file.nbytes for path, file in entry.files.items() if array_of(path) == stored.name}
    document = f"{stored.name}/zarr.json"
    if recorded.keys() != {document, *sizes}:
        raise DatasetError(
            f"clip {clip!r}: the ledger lists {len(recorded)} files of the array {stored.name!r}",
            expected=f"{len(sizes) + 1}: one zarr.json, and files for {length} {stored.leading}s",
            repair=repair_of(clip),
        )
    # Sizes follow from the manifest and the clip's length: a ledger that lies cannot make a reader
    # ask for more memory than the files themselves take.
    for path, nbytes in ({document: recorded[document]} | sizes).items():
        if recorded[path] != nbytes or backend.size(f"clips/{clip}/{path}") != nbytes:
            raise DatasetError(
                f"clip {clip!r}, feature {stored.name!r}: {path} is missing or has another size",
                expected=f"a file of {nbytes} bytes, as manifest and ledger say",
                repair=repair_of(clip),
            )
    return length
