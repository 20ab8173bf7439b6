"""New features for the clips that a dataset already holds.

Clip by clip, the new arrays are written under ``.partial/``, flushed and moved into the clip's folder; then a
ledger entry that lists them as well takes the place of the old one. The manifest promises the features once
every clip has them. At any instant a reader finds a whole dataset, with the features or without them; a kill
leaves at most arrays that no ledger lists, which the next run replaces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.dataset.clip_writer import ClipWriter
from cache_schema.dataset.commit import disk_errors
from cache_schema.dataset.reader import read_manifest
from cache_schema.errors import DatasetError, RequestError
from cache_schema.format.encodings import stored_arrays
from cache_schema.format.ledger import Ledger
from cache_schema.format.manifest import root_document
from cache_schema.storage.atomic_io import write_durably
from cache_schema.storage.locks import committing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import LedgerEntry
    from cache_schema.format.manifest import Manifest


def holds(entry: LedgerEntry, features: Iterable[FeatureSpec]) -> bool:
    """Return whether a clip holds all of these features, promised or not."""
    return all(
        f"{stored.name}/zarr.json" in entry.files for spec in features for stored in stored_arrays(spec)
    )


def extend_clip(
    path: Path,
    manifest: Manifest,
    entry: LedgerEntry,
    features: tuple[FeatureSpec, ...],
    values: Mapping[str, np.ndarray | Sequence[np.ndarray]],
) -> LedgerEntry:
    """Add features to one clip of the dataset at ``path``, whose folder must be held.

    Args:
        path: The dataset's folder.
        manifest: Its manifest.
        entry: The clip's entry in its ledger.
        features: Features to add; none of them is in the manifest.
        values: All frames of each of them, as ``ClipWriter.append`` takes them.

    Returns:
        The clip's new entry.

    Raises:
        FeatureError: A value is not finite, overflows its type, or has another shape than promised.
        DatasetError: The disk refuses.
    """
    writer = ClipWriter(path, manifest, entry.clip, features)
    try:
        writer.append(values)
        return writer.extend(entry)
    finally:
        writer.abort()


def extend_manifest(path: Path, manifest: Manifest, features: tuple[FeatureSpec, ...]) -> None:
    """Promise features that every clip of the dataset at ``path`` holds by now. Its folder must be held.

    Raises:
        RequestError: The dataset has features of these names already.
        DatasetError: A clip lacks them, the dataset was replaced, or the disk refuses.
    """
    try:
        promised = manifest.replace(features=(*manifest.features, *features))
    except ValueError as error:
        raise RequestError(
            f"{path} cannot get more features: {error}",
            expected="features that it does not have, stored or derived",
            repair="give the new features other names",
        ) from error
    with disk_errors(path), committing(path):
        ledger = Ledger(path)
        # A worker that has outlived its run may have added a clip.
        lacking = [clip for clip in ledger.clips() if not holds(ledger.read(clip), features)]
        if lacking or read_manifest(path) != manifest:
            raise DatasetError(
                f"{path} was changed while features were added to it; {len(lacking)} clips lack them",
                expected="the same manifest, and the features in every clip",
                repair="run the same command again: it adds them to the clips that lack them",
            )
        write_durably(path / "zarr.json", root_document(promised))
