"""Clips of one dataset added to another, byte for byte.

Files are copied, not linked: where one file has two names, damage to the one is damage to the other, and a
dataset must stand alone. Every byte passes by on the way, so each file is checked against the ledger that it
comes from; the entry is kept as it is, digest for digest.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache_schema.dataset.assets import read_asset
from cache_schema.dataset.commit import commit_folder, disk_errors, new_clip_folder
from cache_schema.errors import DatasetError, IdentityError
from cache_schema.storage.safe_io import file_size
from cache_schema.terminal import size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.ledger import LedgerEntry

COPY_BYTES = 16 * 2**20
"""Bytes that are in memory at a time."""


@dataclass(frozen=True)
class Copied:
    """Result of a run that fills one dataset from others."""

    added: tuple[str, ...]
    """Clips that this run added."""
    present: tuple[str, ...]
    """Clips asked for that were there before."""
    nbytes: int
    """Bytes of the clips that it added."""
    path: Path = field(compare=False)
    """Folder of the dataset that was filled."""

    def __rich__(self) -> str:
        """Show it in a line."""
        return (
            f"{len(self.added)} clips, {size(self.nbytes)} added to {self.path}; "
            f"{len(self.present)} were already there"
        )


def copy_clip(source: LatentDataset, clip: str, target: Path) -> LedgerEntry:
    """Add one clip of ``source`` to the dataset at ``target``, whose folder must be held.

    Returns:
        The clip's entry in the target.

    Raises:
        DatasetError: A file is not the one that the source's ledger lists, or the disk refuses.
    """
    entry = source.entry(clip)
    with disk_errors(target):
        folder = new_clip_folder(target, clip)
        for name, record in entry.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            digest = _copy(source.path, f"clips/{clip}/{name}", folder / name, record.nbytes)
            if digest != record.sha256:
                shutil.rmtree(folder)
                raise DatasetError(
                    f"clip {clip!r} of {source.path}: {name} is not the file that was written",
                    expected=f"{record.nbytes} bytes with sha256 {record.sha256}",
                    repair=f"run `teachonce repair {source.path}` and make the clip again; "
                    "what was copied before it is safe",
                )
        return commit_folder(target, folder, entry)


def asset_files(source: LatentDataset, target: Path) -> dict[str, bytes]:
    """Return the bytes of every asset of ``source``; none where there is a dataset at ``target`` already.

    Raises:
        DatasetError: An asset is missing, or is not the one that the manifest names.
    """
    if (target / "zarr.json").exists():
        return {}
    return {asset.name: read_asset(source.backend, asset) for asset in source.manifest.assets}


def refuse_conflicts(datasets: Sequence[LatentDataset]) -> None:
    """Check that clips which several datasets of one identity hold are the same in all.

    Raises:
        IdentityError: Some are not; all are counted, the first ten named.
    """
    first: dict[str, tuple[LatentDataset, str]] = {}
    conflicts = []
    for dataset in datasets:
        for clip in dataset.clips:
            digest = dataset.entry(clip).digest
            holder, agreed = first.setdefault(clip, (dataset, digest))
            if digest != agreed:
                conflicts.append(f"    {clip}: in {holder.path} and in {dataset.path}")
    if conflicts:
        shown = "\n".join(conflicts[:10] + ["    ..."] * (len(conflicts) > 10))
        raise IdentityError(
            f"{len(conflicts)} clips are held twice with different content:\n{shown}",
            expected="one digest for a clip, as the same data, slots and libraries give it",
            repair="decide which dataset is right; let `teachonce subset` leave the clip out of the other",
        )


def _copy(root: Path, name: str, target: Path, nbytes: int) -> str | None:
    """Copy a file of ``nbytes`` and return its sha256; None if it has another size."""
    if file_size(root, name) != nbytes:
        return None
    digest = hashlib.sha256()
    with (root / name).open("rb") as source, target.open("wb") as copy:
        while block := source.read(COPY_BYTES):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()
