"""Clips of one dataset added to another, byte for byte.

Files are copied, not linked: where one file has two names, damage to the one is damage to the other, and a
dataset must stand alone. Every byte passes by on the way, so each file is checked against the ledger that it
comes from; the entry is kept as it is, digest for digest.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_schema.dataset.clip_writer import PARTIAL, commit_folder, disk_errors
from cache_schema.errors import DatasetError, IdentityError
from cache_schema.storage.atomic_io import sha256_bytes, sync_tree
from cache_schema.storage.safe_io import file_size, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import LedgerEntry

BLOCK_BYTES = 64 * 2**20
"""Bytes that are in memory at a time."""


@dataclass(frozen=True)
class Copied:
    """What a run that fills one dataset from others has done."""

    added: tuple[str, ...]
    """Clips that this run added."""
    present: tuple[str, ...]
    """Clips asked for that were there before."""
    nbytes: int
    """Bytes of the clips that it added."""


def copy_clip(source: LatentDataset, clip: str, target: Path) -> LedgerEntry:
    """Add one clip of ``source`` to the dataset at ``target``, whose folder must be held.

    Returns:
        The clip's entry in the target.

    Raises:
        DatasetError: A file is not the one that the source's ledger lists, or the disk refuses.
    """
    entry = source.entry(clip)
    folder = target / PARTIAL / f"{platform.node()}-{os.getpid()}" / clip
    with disk_errors(target):
        shutil.rmtree(folder, ignore_errors=True)
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
        sync_tree(folder)
        return commit_folder(target, folder, entry)


def asset_files(source: LatentDataset, target: Path) -> dict[str, bytes]:
    """Bytes of every asset of ``source``, checked; none where there is a dataset at ``target`` already.

    Raises:
        DatasetError: An asset is missing, or is not the one that the manifest names.
    """
    if (target / "zarr.json").exists():
        return {}
    files = {}
    for asset in source.manifest.assets:
        try:
            content = read_file(source.path, f"assets/{asset.name}", asset.nbytes)
        except FileNotFoundError:
            content = b""
        if sha256_bytes(content) != asset.sha256:
            raise DatasetError(
                f"{source.path}: the asset {asset.name} is missing, or not the one that the manifest names",
                expected=f"{asset.nbytes} bytes with sha256 {asset.sha256}",
                repair="fetch the asset again from where the dataset came from",
            )
        files[asset.name] = content
    return files


def frame_blocks(frames: int, spec: FeatureSpec) -> Iterator[slice]:
    """Frames of a clip in pieces of a feature that fit into memory, even as float64."""
    length = max(1, BLOCK_BYTES // (8 * math.prod(spec.shape)))
    return (slice(begin, min(frames, begin + length)) for begin in range(0, frames, length))


def refuse_conflicts(datasets: Sequence[LatentDataset]) -> None:
    """Check that a clip which two datasets of one identity hold is the same in both.

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
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()
