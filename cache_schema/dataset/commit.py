"""How a clip becomes part of a dataset: whole or not at all.

A clip grows in its writer's own folder under ``.partial/``, is flushed to the disk, renamed into ``clips/``,
and only then entered in the ledger. A kill at any instant leaves either a committed clip or remains that the
next run clears. Should two processes ever make the same clip, the first to commit wins.

A writer may outlive its run, and its dataset may be deleted or replaced meanwhile. So the folder of a clip is
locked as long as its writer lives, and a commit compares what it finds with what was promised: the files with
those that were written, the manifest with the one that the writer knows.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import stat
import uuid
from typing import TYPE_CHECKING

from cache_schema.dataset.reader import read_manifest
from cache_schema.errors import DatasetError, IdentityError
from cache_schema.format.identity import difference_rows, differences
from cache_schema.format.ledger import Ledger
from cache_schema.storage.atomic_io import rename_durably, sync_tree
from cache_schema.storage.locks import committing, lock
from cache_schema.storage.stray_files import is_stray

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from cache_schema.format.ledger import FileRecord, LedgerEntry
    from cache_schema.format.manifest import Manifest

PARTIAL = ".partial"
"""Folder of clips that are being written: ``.partial/<writer>/<clip>``, with the lock ``<writer>.lock``."""
LOCK = ".lock"

_unfinished: set[ClipFolder] = set()
"""Folders of this process that are neither committed nor discarded."""


class ClipFolder:
    """A folder of one writer's own, in which a clip grows until it is committed.

    No other run clears it as long as this process lives.

    Args:
        path: The dataset's folder.
        clip: Name of the clip.
        manifest: The dataset's manifest, as the writer knows it.

    Raises:
        OSError: The disk refuses.
    """

    def __init__(self, path: Path, clip: str, manifest: Manifest) -> None:
        self.dataset, self._clip, self._manifest = path, clip, manifest
        # Unique: on two machines, processes may have the same number.
        self._own = path / PARTIAL / f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex}"
        self._own.parent.mkdir(exist_ok=True)
        self._lock = lock(_lock_of(self._own), wait=True)  # before the folder: without a lock it is abandoned
        _unfinished.add(self)
        self.path = self._own / clip
        self.path.mkdir(parents=True)

    def commit(self, entry: LedgerEntry) -> LedgerEntry:
        """Flush the folder, move it into the dataset, and enter the clip in the ledger.

        Args:
            entry: The clip's entry; its files are those that were written to the folder.

        Returns:
            The clip's entry: another process's, if that has committed the clip in the meantime.

        Raises:
            DatasetError: The folder holds anything else, or the dataset was replaced; the clip is discarded.
            OSError: The disk refuses.
        """
        target = self.dataset / "clips" / self._clip
        ledger = Ledger(self.dataset)
        try:
            sync_tree(self.path)
            with committing(self.dataset):
                self._check_manifest()
                if self._clip in ledger:
                    return ledger.read(self._clip)
                self._check_files(entry.files)
                if target.exists():
                    shutil.rmtree(target)  # of a process that was killed before its ledger entry
                rename_durably(self.path, target)
                ledger.commit(entry)
        finally:
            self.discard()
        return entry

    def extend(self, entry: LedgerEntry, added: Mapping[str, FileRecord]) -> None:
        """Flush the arrays in the folder, move them into the committed clip, and replace the clip's entry.

        Args:
            entry: The clip's entry with the files of these arrays.
            added: The files that were written to the folder.

        Raises:
            DatasetError: The folder holds anything else, or the dataset was replaced.
            OSError: The disk refuses.
        """
        clip = self.dataset / "clips" / self._clip
        sync_tree(self.path)
        with committing(self.dataset):
            self._check_manifest()
            self._check_files(added)
            for array in sorted({self.path / name.partition("/")[0] for name in added if "/" in name}):
                # Arrays of a run that was killed before its entry.
                shutil.rmtree(clip / array.name, ignore_errors=True)
                rename_durably(array, clip / array.name)
            Ledger(self.dataset).commit(entry)

    def discard(self) -> None:
        """Remove whatever is left of the folder."""
        shutil.rmtree(self._own, ignore_errors=True)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                _lock_of(self._own).unlink(missing_ok=True)
            self._lock.close()
        _unfinished.discard(self)

    def _check_manifest(self) -> None:
        there = read_manifest(self.dataset)
        if found := differences(there, self._manifest):
            raise IdentityError(
                f"{self.dataset} was replaced while clip {self._clip!r} was being written:\n"
                + difference_rows(found, "{} there, {} here"),
                expected="the manifest that the run began with, until it ends",
                repair="see which run the dataset belongs to now; run this one again into another path",
            )

    def _check_files(self, promised: Mapping[str, FileRecord]) -> None:
        written = {name: record.nbytes for name, record in promised.items()}
        found = {
            file.relative_to(self.path).as_posix(): status.st_size if stat.S_ISREG(status.st_mode) else None
            for file in self.path.rglob("*")
            if not is_stray(file.name) and not stat.S_ISDIR((status := file.lstat()).st_mode)
        }
        check_as_written(self._clip, found, written)


def check_as_written(clip: str, found: Mapping[str, object], written: Mapping[str, object]) -> None:
    """Compare what is found of a clip's files, by their names, with what was written.

    Raises:
        DatasetError: They differ.
    """
    if found != written:
        wrong = min(name for name in {*found, *written} if found.get(name) != written.get(name))
        raise DatasetError(
            f"clip {clip!r} is not as it was written: {wrong} was removed or changed",
            expected=f"the {len(written)} files that were written, and no other",
            repair="see what else works in the dataset's folder; then run the same command again",
        )


def discard_unfinished(path: Path) -> None:
    """Remove the clips that this process has begun to write to the dataset at ``path`` and not committed."""
    for folder in [folder for folder in list(_unfinished) if folder.dataset == path]:
        folder.discard()
    with contextlib.suppress(OSError, DatasetError):  # the next run tries again
        clear_partial(path)


def clear_partial(path: Path) -> None:
    """Remove what dead writers have left under ``.partial/``; what a living one has locked stays."""
    partial = path / PARTIAL
    if partial.is_symlink() or not partial.is_dir():
        return
    entries = sorted(partial.iterdir())
    for folder in entries:
        if folder.suffix != LOCK and not _lock_of(folder).exists():
            shutil.rmtree(folder, ignore_errors=True)
    for file in entries:
        if file.suffix == LOCK and (locked := lock(file, wait=False)):
            with locked:
                shutil.rmtree(file.with_suffix(""), ignore_errors=True)
                file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        partial.rmdir()  # unless somebody works in it


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK)


@contextlib.contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn an OSError into a ``DatasetError`` that names the dataset."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(
            f"a file under {path} is gone: {error}",
            expected="a folder that nobody clears, moves or replaces while it is being written",
            repair="see what removed it, then run the same command again; committed clips are safe",
        ) from error
    except OSError as error:
        raise DatasetError(
            f"the disk under {path} refuses: {error}",
            expected="room for the clips that are being written, and the right to write",
            repair="free space or repair the disk, then run the same command again; committed clips are safe",
        ) from error
