"""Clips of one dataset added to another, byte for byte.

Files are copied, not linked: where one file has two names, damage to the one is damage to the other, and a
dataset must stand alone. Every byte passes by on the way, so each file is checked against the ledger that it
comes from; the entry is kept as it is, digest for digest.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache_schema.dataset.commit import ClipFolder, disk_errors
from cache_schema.errors import DatasetError, IdentityError
from cache_schema.progress import SILENT
from cache_schema.terminal import size

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from pathlib import Path

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.ledger import FileRecord, LedgerEntry
    from cache_schema.format.manifest import AssetSpec, Manifest
    from cache_schema.progress import Progress
    from cache_schema.storage.backend import StorageBackend


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


class AlteredFileError(DatasetError):
    """A file is not the one that the ledger or the manifest lists."""


def copy_clip(source: StorageBackend, entry: LedgerEntry, target: Path, manifest: Manifest) -> LedgerEntry:
    """Add one clip to the dataset at ``target``, whose folder must be held.

    Args:
        source: Where the clip's dataset is.
        entry: Its ledger entry; files that it does not list are left behind.
        target: Folder of the dataset that it is added to.
        manifest: That dataset's manifest, as the run found or wrote it.

    Returns:
        The clip's entry in the target.

    Raises:
        AlteredFileError: A file is not the one that the entry lists.
        DatasetError: The disk refuses, or the target was replaced meanwhile.
        StorageError: The source cannot be reached.
    """
    clip = entry.clip.name
    with disk_errors(target):
        folder = ClipFolder(target, clip, manifest)
        try:
            for name, record in entry.files.items():
                file = folder.path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                copy_file(source, f"clips/{clip}/{name}", file, record)
            return folder.commit(entry)
        finally:
            folder.discard()


def copy_file(
    source: StorageBackend,
    name: str,
    target: Path,
    record: FileRecord | AssetSpec,
    progress: Progress = SILENT,
    stopped: threading.Event | None = None,
) -> None:
    """Copy one file; no more than the size in its record is ever written.

    Args:
        source: Where it is read from.
        name: Its name there.
        target: The file to write.
        record: Its size and digest.
        progress: Counts bytes.
        stopped: Once it is set, by another thread, the copy ends with an error.

    Raises:
        AlteredFileError: It is not the file of this size and digest.
    """
    digest, arrived = hashlib.sha256(), 0
    target.unlink(missing_ok=True)
    with target.open("xb") as file, contextlib.suppress(FileNotFoundError):
        for block in source.stream(name):
            arrived += len(block)
            if arrived > record.nbytes or (stopped and stopped.is_set()):
                break
            digest.update(block)
            file.write(block)
            progress.advance(len(block))
    if arrived != record.nbytes or digest.hexdigest() != record.sha256:
        target.unlink()
        raise AlteredFileError(
            f"{source}/{name} is missing, or is not the file that was written",
            expected=f"{record.nbytes} bytes with sha256 {record.sha256}",
            repair="run `teachonce repair` on that dataset and make the clip again, or ask its publisher to; "
            "then run the same command again, what was copied is safe",
        )


def asset_files(source: LatentDataset, target: Path) -> dict[str, bytes]:
    """Return the bytes of every asset of ``source``; none where there is a dataset at ``target`` already.

    Raises:
        DatasetError: An asset is missing, or is not the one that the manifest names.
    """
    if (target / "zarr.json").exists():
        return {}
    return {asset.name: source.asset_bytes(asset) for asset in source.manifest.assets}


def refuse_conflicts(datasets: Sequence[LatentDataset]) -> None:
    """Check that clips which several datasets of one identity hold are the same in all.

    Raises:
        IdentityError: Some are not; all are counted, the first ten named.
    """
    holders: dict[str, list[LatentDataset]] = {}
    for dataset in datasets:
        for clip in dataset.clips:
            holders.setdefault(clip, []).append(dataset)
    conflicts = [
        f"    {clip}: in {first.path} and in {other.path}"
        for clip, (first, *others) in holders.items()
        for other in others
        if other.entry(clip).digest != first.entry(clip).digest
    ]
    if conflicts:
        shown = "\n".join(conflicts[:10] + ["    ..."] * (len(conflicts) > 10))
        raise IdentityError(
            f"{len(conflicts)} clips are held twice with different content:\n{shown}",
            expected="one digest for a clip, as the same data, slots and libraries give it",
            repair="decide which dataset is right; let `teachonce subset` leave the clip out of the other",
        )
