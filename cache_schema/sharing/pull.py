"""Fetching a dataset, or a part of one, from where it was shared.

Every byte is compared with the ledger while it arrives, and a clip is committed as an extraction commits it:
flushed, renamed into place, entered in the ledger. So a pull that is cut short leaves a smaller dataset, and
running it again fetches what is missing.
"""

from __future__ import annotations

import functools
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cache_schema.dataset.commit import ClipFolder, disk_errors
from cache_schema.dataset.copy_clips import AlteredFileError, copy_file
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter, establish
from cache_schema.errors import DatasetError, LeftOut, RequestError, StorageError
from cache_schema.format.array_metadata import documents
from cache_schema.format.clip_files import promised_files, wrongly_listed
from cache_schema.progress import SILENT
from cache_schema.sharing.subset import ALL, ClipFilter
from cache_schema.storage.atomic_io import rename_durably, sha256_bytes, sha256_of, sync, write_durably
from cache_schema.storage.backend import CARD
from cache_schema.storage.local_folder import LocalBackend
from cache_schema.storage.locks import check_held
from cache_schema.storage.safe_io import JSON_BYTES
from cache_schema.terminal import size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from cache_schema.format.ledger import FileRecord, LedgerEntry
    from cache_schema.format.manifest import AssetSpec, Manifest
    from cache_schema.progress import Progress
    from cache_schema.storage.backend import StorageBackend

STREAMS = 8
"""Clips that are fetched in parallel."""
FILE_STREAMS = 16
"""Files that are fetched in parallel, of all clips together."""
PATIENCE = 3
"""Clips that the storage may fail to return before the pull ends."""
SMALL_ASSET_BYTES = 64 * 2**20
"""Assets up to this size come with any part of a dataset: projections do, a planner does not."""


@dataclass(frozen=True)
class Pulled:
    """Result of a pull."""

    fetched: tuple[str, ...]
    """Clips that it added."""
    present: tuple[str, ...]
    """Clips whose names match and that were there before; nothing of them was fetched."""
    nbytes: int
    """Bytes of the clips that it added."""
    failed: tuple[LeftOut, ...]
    """Clips that are not what their ledger entries say, or that the storage does not return."""
    path: Path
    """Folder of the dataset that was fetched."""

    def __rich__(self) -> str:
        """Show it in a line."""
        return (
            f"{len(self.fetched)} clips, {size(self.nbytes)} fetched to {self.path}; "
            f"{len(self.present)} were there"
        )


def pull(
    url: str,
    path: Path,
    which: ClipFilter = ALL,
    *,
    features: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Pulled:
    """Fetch the clips and features asked for that are not there yet.

    A part of the features makes a dataset that promises only these. Large assets then come along only where
    everything is kept that a student reads (role ``input``), so that it can start from them.

    Args:
        url: Where the dataset is, as ``open_backend`` takes it.
        path: Folder of the dataset to fetch to; made if it does not exist.
        which: Clips to fetch; all by default.
        features: Names of the features to keep; all by default. With values that frames share comes the
            feature that says where they are.
        progress: Counts bytes.

    Raises:
        RequestError: There is no such feature, or no clip that matches.
        IdentityError: Another dataset is at ``path``.
        DatasetError: At ``url`` is no dataset, an asset is not as promised, or the disk has no room.
        StorageError: The storage cannot be reached.
    """
    source = LatentDataset.open(url)
    manifest = source.manifest if features is None else _part_of(source, features)
    # By name first: that costs nothing more.
    named = [clip for clip in source.clips if fnmatchcase(clip, which.clips or "*")]
    if which.clips is not None and not named:
        raise RequestError(
            f"{source.backend} has no clip that fits {which.clips!r}",
            expected=f"a pattern that fits some of {len(source.clips)} clips, such as '*_Town05_*'",
            repair="correct the pattern; `teachonce inspect --clips` lists the clips",
        )
    # Before anything is fetched: is the dataset at the path the same?
    with DatasetWriter(path, manifest if (path / "zarr.json").exists() else None) as writer:
        present = set(writer.committed())
        wanted, failed = _entries(source, manifest, [clip for clip in named if clip not in present])
        wanted = [entry for entry in wanted if which.matches(entry.clip)]
        _check_room(path, sum(entry.nbytes for entry in wanted) + sum(a.nbytes for a in manifest.assets))
        for asset in manifest.assets:
            _fetch_asset(source.backend, asset, path)
        establish(path, manifest, {})
        _fetch_card(source.backend, path)
        progress.expect(sum(entry.nbytes for entry in wanted))
        fetched = _fetch_clips(source.backend, path, manifest, wanted, failed, progress)
    return Pulled(
        fetched=tuple(sorted(entry.clip.name for entry in fetched)),
        present=tuple(clip for clip in named if clip in present),
        nbytes=sum(entry.nbytes for entry in fetched),
        failed=tuple(sorted(failed, key=lambda left: left.clip)),
        path=path,
    )


def _fetch_clips(
    source: StorageBackend,
    path: Path,
    manifest: Manifest,
    wanted: Sequence[LedgerEntry],
    failed: list[LeftOut],
    progress: Progress,
) -> list[LedgerEntry]:
    """Fetch clips side by side; add those that cannot be had to ``failed``."""
    fetched: list[LedgerEntry] = []
    unreachable, stopped = 0, threading.Event()
    with ThreadPoolExecutor(FILE_STREAMS) as files, ThreadPoolExecutor(STREAMS) as pool:

        def copy(name: str, target: Path, record: FileRecord) -> None:
            copy_file(source, name, target, record, progress, stopped)

        def fetch(entry: LedgerEntry) -> LedgerEntry:
            return _fetch_clip(entry, manifest, path, functools.partial(files.submit, copy), progress)

        try:
            clip_of = {pool.submit(fetch, entry): entry.clip.name for entry in wanted}
            for done in as_completed(clip_of):
                try:
                    fetched.append(done.result())
                    progress.advance(0, clip_of[done])
                except (AlteredFileError, StorageError) as error:
                    unreachable += isinstance(error, StorageError)
                    if unreachable == PATIENCE:
                        raise
                    failed.append(LeftOut.because(clip_of[done], error))
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return fetched


def _fetch_clip(
    entry: LedgerEntry,
    manifest: Manifest,
    path: Path,
    copy: Callable[[str, Path, FileRecord], Future[None]],
    progress: Progress,
) -> LedgerEntry:
    """Fetch one clip, its files side by side; what follows from the manifest is written without a request."""
    clip = entry.clip.name
    known = documents(manifest.features, entry.clip, entry.values)
    with disk_errors(path):
        folder = ClipFolder(path, clip, manifest)
        copies: list[Future[None]] = []
        try:
            for name, record in entry.files.items():
                file = folder.path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                content = known.get(name, b"")
                # Another version may have spelled it otherwise.
                if sha256_bytes(content) == record.sha256:
                    file.write_bytes(content)
                    progress.advance(len(content))
                else:
                    copies.append(copy(f"clips/{clip}/{name}", file, record))
            for done in copies:
                done.result()
            return folder.commit(entry)
        finally:
            for waiting in copies:
                waiting.cancel()
            wait(copies)
            folder.discard()


def _part_of(source: LatentDataset, features: Sequence[str]) -> Manifest:
    """Return the manifest of a dataset that holds only these features."""
    source.require(features)
    whole = source.manifest
    indices = {spec.stored_at for spec in whole.features if spec.name in features}
    kept = tuple(spec for spec in whole.features if spec.name in indices.union(features))
    has_inputs = all(spec in kept for spec in whole.features if spec.role == "input")
    assets = tuple(asset for asset in whole.assets if has_inputs or asset.nbytes <= SMALL_ASSET_BYTES)
    derivations = tuple(
        derivation
        for derivation in whole.derivations
        if {*derivation.inputs} <= {*features} and whole.asset(derivation.asset) in assets
    )
    return whole.replace(features=kept, assets=assets, derivations=derivations)


def _entries(
    source: LatentDataset, manifest: Manifest, clips: Sequence[str]
) -> tuple[list[LedgerEntry], list[LeftOut]]:
    """Return entries of clips as ``manifest`` promises them, and the clips whose entries are wrong."""
    entries, failed = [], []

    def read(clip: str) -> LedgerEntry | LeftOut:
        try:
            return _kept(source.entry(clip), source.manifest, manifest)
        except DatasetError as error:
            return LeftOut.because(clip, error)

    with ThreadPoolExecutor(STREAMS) as pool:
        for found in pool.map(read, clips):
            if isinstance(found, LeftOut):
                failed.append(found)
            else:
                entries.append(found)
    return entries, failed


def _kept(entry: LedgerEntry, whole: Manifest, manifest: Manifest) -> LedgerEntry:
    """Return the entry of a clip that holds only what ``manifest`` promises."""
    frames = entry.clip.frames
    wrong = wrongly_listed(entry.files, promised_files(whole.features, frames, entry.values))
    if wrong:
        raise DatasetError(
            f"the ledger entry of clip {entry.clip.name!r} lists a wrong {wrong[0]}",
            expected="the files that the manifest promises, in their sizes",
            repair="ask the publisher of the dataset to push it again; then run the same command again",
        )
    kept = promised_files(manifest.features, frames, entry.values)
    files = {name: record for name, record in entry.files.items() if name in kept}
    return entry.holding(files, {name: n for name, n in entry.values.items() if f"{name}/zarr.json" in files})


def _check_room(path: Path, nbytes: int) -> None:
    free = shutil.disk_usage(path).free
    if nbytes > free:
        raise DatasetError(
            f"the disk under {path} has {free / 1e9:.1f} GB left",
            expected=f"room for {nbytes / 1e9:.1f} GB",
            repair="free space, or fetch fewer clips or features",
        )


def _fetch_asset(source: StorageBackend, asset: AssetSpec, path: Path) -> None:
    name = f"assets/{asset.name}"
    if LocalBackend(path).size(name) == asset.nbytes and sha256_of(path / name) == asset.sha256:
        return
    temporary = path / "assets" / f".{asset.name}.{os.getpid()}.tmp"
    with disk_errors(path):
        temporary.parent.mkdir(exist_ok=True)
        copy_file(source, name, temporary, asset)
        sync(temporary)
        check_held(path)
        rename_durably(temporary, path / name)


def _fetch_card(source: StorageBackend, path: Path) -> None:
    try:
        card = source.read(CARD, JSON_BYTES)
    except FileNotFoundError:
        return
    with disk_errors(path):
        write_durably(path / CARD, card)
