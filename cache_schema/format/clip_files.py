"""Which files a clip has, known from the manifest and from the lengths in the clip's ledger entry alone."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from cache_schema.errors import DatasetError
from cache_schema.format.encodings import stored_arrays
from cache_schema.format.layout import file_sizes, layout_of
from cache_schema.storage.safe_io import JSON_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import FileRecord


class ChunkFile(NamedTuple):
    """A file of values."""

    spec: FeatureSpec
    stored: StoredArray
    length: int
    """Elements along the leading axis of the whole array."""
    held: int
    """Those of them that this file holds."""
    nbytes: int
    """Size of the file."""


class MetadataFile(NamedTuple):
    """The zarr.json of one array."""

    stored: StoredArray
    length: int
    """Elements along the leading axis of the array."""


def promised_files(
    features: Iterable[FeatureSpec], frames: int, values: Mapping[str, int]
) -> dict[str, ChunkFile | MetadataFile | None]:
    """Return every file of a clip, by its path in the clip's folder.

    Args:
        features: What the manifest promises.
        frames: Frames of the clip.
        values: Stored values of every ragged feature, by its name.

    Returns:
        What each file holds; None for the zarr.json of the clip's group.

    Raises:
        DatasetError: The number of values of a ragged feature is not given.
    """
    files: dict[str, ChunkFile | MetadataFile | None] = {"zarr.json": None}
    for spec in features:
        for stored in stored_arrays(spec):
            length = stored_length(stored, frames, values)
            files[f"{stored.name}/zarr.json"] = MetadataFile(stored, length)
            for path, held, nbytes in _value_files(stored, length):
                files[path] = ChunkFile(spec, stored, length, held, nbytes)
    return files


@functools.lru_cache(4096)
def _value_files(stored: StoredArray, length: int) -> tuple[tuple[str, int, int], ...]:
    """Return the path of every file of values, the elements that it holds, and its size."""
    per_file = layout_of(stored, length).file_length
    return tuple(
        (path, min(per_file, length - number * per_file), nbytes)
        for number, (path, nbytes) in enumerate(file_sizes(stored, length).items())
    )


def wrongly_listed(
    files: Mapping[str, FileRecord], promised: Mapping[str, ChunkFile | MetadataFile | None]
) -> list[str]:
    """Return the files that a ledger entry lacks, has in a wrong size, or has without an array, sorted.

    An entry may list whole arrays that are not promised: of a feature that is being added, and is promised
    once every clip has it.

    Args:
        files: Files of the clip, as its ledger entry lists them.
        promised: What ``promised_files`` returns for the clip.
    """
    wrong = promised.keys() - files.keys()
    for name, record in files.items():
        expected = promised.get(name)
        if name not in promised and f"{array_of(name)}/zarr.json" not in files:
            wrong.add(name)
        # So a ledger that lies cannot fill the disk.
        elif isinstance(expected, ChunkFile):
            wrong |= {name} if record.nbytes != expected.nbytes else set()
        elif name in promised and record.nbytes > JSON_BYTES:
            wrong.add(name)
    return sorted(wrong)


def stored_length(stored: StoredArray, frames: int, values: Mapping[str, int]) -> int:
    """Return the elements along the leading axis of an array of a clip.

    Raises:
        DatasetError: It counts values, and their number is not given.
    """
    if stored.leading == "frame":
        return frames
    if stored.name not in values:
        raise DatasetError(
            f"the ledger entry lacks the number of values of {stored.name!r}",
            expected="the number of values of every ragged feature, as the commit of the clip wrote it",
            repair="run `teachonce repair`, then extract or pull the clip again",
        )
    return values[stored.name]


@functools.lru_cache(4096)
def array_of(path: str) -> str:
    """Return the array that a file of a clip belongs to; empty for the clip's group."""
    return path.partition("/")[0] if "/" in path else ""


@functools.lru_cache(4096)
def feature_of(path: str) -> str:
    """Return the feature of a clip's file: ``x`` for ``x/...`` and ``x.scale/...``, empty for the group."""
    return array_of(path).partition(".")[0]
