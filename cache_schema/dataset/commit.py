"""How a clip becomes part of a dataset: whole or not at all.

A clip grows in its writer's own folder under ``.partial/``, is flushed to the disk, renamed into ``clips/``,
and only then entered in the ledger. A kill at any instant leaves either a committed clip or remains that the
next run clears. Should two processes ever make the same clip, the first to commit wins.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from typing import TYPE_CHECKING

from cache_schema.errors import DatasetError
from cache_schema.format.ledger import Ledger
from cache_schema.storage.atomic_io import rename_durably, sync_tree
from cache_schema.storage.locks import committing

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from cache_schema.format.ledger import LedgerEntry

PARTIAL = ".partial"
"""Folder of clips that are being written: ``.partial/<writer>/<clip>``."""


def new_clip_folder(path: Path, clip: str) -> Path:
    """Return an empty folder of this process's own for the clip, in the dataset at ``path``."""
    folder = path / PARTIAL / f"{platform.node()}-{os.getpid()}" / clip
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit_folder(path: Path, folder: Path, entry: LedgerEntry) -> LedgerEntry:
    """Flush a clip's finished folder, move it into the dataset at ``path``, and enter it in the ledger.

    Returns:
        The clip's entry: another process's, if that has committed the clip in the meantime.
    """
    name = entry.clip.name
    target = path / "clips" / name
    ledger = Ledger(path)
    sync_tree(folder)
    with committing(path):
        if name in ledger:
            shutil.rmtree(folder, ignore_errors=True)
            return ledger.read(name)
        if target.exists():
            shutil.rmtree(target)  # of a process that was killed before its ledger entry
        rename_durably(folder, target)
        ledger.commit(entry)
    return entry


def commit_arrays(path: Path, folder: Path, entry: LedgerEntry) -> None:
    """Flush arrays in ``folder``, move them into a committed clip, and replace the clip's entry.

    Args:
        path: The dataset's folder.
        folder: Arrays that the clip lacks.
        entry: The clip's entry with the files of these arrays.
    """
    clip = path / "clips" / entry.clip.name
    sync_tree(folder)
    with committing(path):
        for array in sorted(file for file in folder.iterdir() if file.is_dir()):
            # Arrays of a run that was killed before its entry.
            shutil.rmtree(clip / array.name, ignore_errors=True)
            rename_durably(array, clip / array.name)
        Ledger(path).commit(entry)


@contextlib.contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn an OSError into a ``DatasetError`` that names the dataset."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"the disk under {path} refuses: {error}",
            expected="room for the clips that are being written, and the right to write",
            repair="free space or repair the disk, then run the same command again; committed clips are safe",
        ) from error
