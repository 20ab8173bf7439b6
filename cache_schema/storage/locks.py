"""Locks: one run holds a dataset, one clip is committed at a time.

Both are ``flock`` locks, which the kernel releases however their process ends; what a dead process wrote into
the lock file has no effect.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from typing import TYPE_CHECKING

from cache_schema.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from typing import IO

HELD, COMMITTING = ".lock", ".commit"
"""Lock files, in the dataset's folder."""


@contextlib.contextmanager
def hold(path: Path) -> Generator[None]:
    """Hold the dataset at ``path``, and keep every other run out of it.

    Raises:
        DatasetError: Another run holds it, or its file system has no locks.
    """
    with _open(path / HELD) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise DatasetError(
                f"{path} is being written by another run ({file.read(200).strip() or 'unknown'})",
                expected="one run at a time",
                repair="wait for it to end, or stop it and run this command again",
            ) from error
        except OSError as error:
            raise DatasetError(
                f"{path} cannot be locked: {error}",
                expected="a file system with flock: a local disk, NFS 4, Lustre mounted with -o flock",
                repair="write to another file system, and move what is finished",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


@contextlib.contextmanager
def committing(path: Path) -> Generator[None]:
    """Wait until no other process moves a clip into place or clears remains, then do so."""
    with _open(path / COMMITTING) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open(path: Path) -> IO[str]:
    try:
        # Through a link, whatever it leads to would be emptied.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        return os.fdopen(descriptor, "r+", errors="replace")
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be opened: {error}",
            expected="a file that this program made, and the right to write",
            repair="delete it if it is a link or a folder; or write to another path",
        ) from error
