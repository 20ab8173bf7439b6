"""New features for the clips that a dataset already holds.

Clip by clip, the new arrays are written under ``.partial/``, flushed and moved into the clip's folder; then a
ledger entry that lists them as well takes the place of the old one. The manifest promises the features once
every clip has them. At any instant a reader finds a whole dataset, with the features or without them; a kill
leaves at most arrays that no ledger lists, which the next run replaces.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cache_schema.dataset.clip_writer import ClipWriter, disk_errors
from cache_schema.format.encodings import stored_arrays
from cache_schema.format.ledger import Ledger, LedgerEntry, digest_of, record_files
from cache_schema.format.manifest import Manifest, root_document
from cache_schema.storage.atomic_io import rename_durably, sync_tree, write_durably
from cache_schema.storage.locks import committing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy as np

    from cache_schema.format.features import FeatureSpec


def holds(entry: LedgerEntry, features: Iterable[FeatureSpec]) -> bool:
    """Tell whether a clip holds all of these features, promised or not."""
    return all(
        f"{stored.name}/zarr.json" in entry.files for spec in features for stored in stored_arrays(spec)
    )


def extend_clip(
    path: Path,
    manifest: Manifest,
    entry: LedgerEntry,
    features: tuple[FeatureSpec, ...],
    values: Mapping[str, np.ndarray],
) -> LedgerEntry:
    """Add features to one clip of the dataset at ``path``, whose folder must be held.

    Args:
        path: The dataset's folder.
        manifest: Its manifest.
        entry: The clip's entry in its ledger.
        features: What is added; none of it is in the manifest.
        values: (frames, *shape) of each of them.

    Returns:
        The clip's new entry.

    Raises:
        FeatureError: A value is not finite, overflows its type, or has another shape than promised.
        DatasetError: The disk refuses.
    """
    writer = _Extension(path, manifest.model_copy(update={"features": features}), entry.clip)
    try:
        writer.append(values)
        return writer.extend(entry)
    finally:
        writer.abort()


def extend_manifest(path: Path, manifest: Manifest, features: tuple[FeatureSpec, ...]) -> None:
    """Promise features that every clip of the dataset at ``path`` holds by now. Its folder must be held."""
    promised = Manifest.model_validate(
        {**manifest.model_dump(), "features": [spec.model_dump() for spec in (*manifest.features, *features)]}
    )
    with disk_errors(path):
        write_durably(path / "zarr.json", root_document(promised))


class _Extension(ClipWriter):
    """Some more features of a clip, on their way into its folder."""

    def extend(self, entry: LedgerEntry) -> LedgerEntry:
        """Flush the arrays, move them into the clip and enter them in the ledger."""
        with disk_errors(self._path):
            for column in self._columns.values():
                column.finish()
            sync_tree(self._folder)
            # The group's own zarr.json is in the clip already.
            added = {name: file for name, file in record_files(self._folder).items() if "/" in name}
            files = dict(sorted({**entry.files, **added}.items()))
            extended = entry.model_copy(update={"files": files, "digest": digest_of(entry.clip, files)})
            clip = self._path / "clips" / entry.clip.name
            with committing(self._path):
                for array in sorted({name.split("/")[0] for name in added}):
                    shutil.rmtree(
                        clip / array, ignore_errors=True
                    )  # of a run that was killed before its entry
                    rename_durably(self._folder / array, clip / array)
                Ledger(self._path / "ledger").commit(extended)
        return extended
