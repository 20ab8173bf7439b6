"""Locks: one run holds a folder, one clip is committed at a time, a growing clip is not cleared.

All are ``flock`` locks, which the kernel releases however their process ends; what a dead process wrote into
a lock file has no effect. A lock counts only while its file is the one at its path: who deletes or replaces a
folder ends the claim of whoever held it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import stat
from typing import TYPE_CHECKING

from cache_schema.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Generator
    from io import FileIO
    from pathlib import Path

HELD, COMMITTING = ".lock", ".commit"
"""Lock files, in the folder that they protect."""
HOLDER = b"process "
"""How the text of a ``HELD`` file begins. Any other text is not ours."""

_held: dict[str, FileIO] = {}
"""What this process holds: the lock file, by the absolute path of the folder."""


@contextlib.contextmanager
def hold(path: Path) -> Generator[None]:
    """Hold the folder at ``path``, of a dataset or of a training run, and keep every other run out of it.

    Raises:
        DatasetError: Another run holds it, its file system has no locks, or the disk refuses.
    """
    file = lock(path / HELD, wait=False)
    if file is None:
        raise DatasetError(
            f"{path} is being written by another run ({_signature(path / HELD) or 'unknown'})",
            expected="one run at a time",
            repair="wait for it to end, or stop it and run this command again",
        )
    where = os.path.abspath(path)
    with file:
        _sign(file, path / HELD)
        before = _held.get(where)  # of a folder that this one has replaced
        _held[where] = file
        try:
            yield
        finally:
            del _held[where]
            if before is not None:
                _held[where] = before


def check_held(path: Path) -> None:
    """Check that the folder at ``path`` still is the one that this process holds. Call it before a commit.

    Of a folder that this process does not hold, nothing is checked.

    Raises:
        DatasetError: The folder was deleted, moved or replaced since.
    """
    file = _held.get(os.path.abspath(path))
    if file is not None and not _is_at(file, path / HELD):
        raise DatasetError(
            f"{path} was deleted, moved or replaced while this run was writing to it",
            expected=f"the folder that this run holds, with its {HELD}, until the run ends",
            repair="see which run the folder belongs to now; then run this again, or give another path",
        )


@contextlib.contextmanager
def committing(path: Path) -> Generator[None]:
    """Wait until no other process moves a clip into place or clears remains, then do so.

    Raises:
        DatasetError: The folder is no longer the one that this process holds, or it cannot be locked.
    """
    check_held(path)
    file = lock(path / COMMITTING, wait=True)
    assert file is not None
    with file:
        check_held(path)
        yield


def lock(path: Path, *, wait: bool) -> FileIO | None:
    """Lock a file of this program's own, which is made if it does not exist, until it is closed.

    Args:
        path: The lock file.
        wait: Wait for a process that has it locked.

    Returns:
        The locked file, which is the one at ``path``; None if another process has it, and ``wait`` is false.

    Raises:
        DatasetError: It cannot be opened or locked, or it is a file of somebody else's.
    """
    while True:
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            raise DatasetError(
                f"{path} cannot be locked: {error}",
                expected="a file system with flock: a local disk, NFS 4, Lustre mounted with -o flock",
                repair="write to another file system, and move what is finished",
            ) from error
        # Between opening and locking, the process that had it may have deleted it.
        if _is_at(file, path):
            return file
        file.close()


def _open(path: Path) -> FileIO:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise _foreign(path, f"cannot be opened: {error}") from error
    status = os.fstat(descriptor)
    # What a link shares with another name may be anybody's.
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise _foreign(path, "is a link to another file, or no plain file")
    return os.fdopen(descriptor, "r+b", buffering=0)


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except OSError:
        return False


def _sign(file: FileIO, path: Path) -> None:
    """Write into a lock file whose it is, unless it is a file of another program's."""
    text = file.read(len(HOLDER))
    if text and not text.startswith(HOLDER):
        raise _foreign(path, "was written by another program")
    try:
        file.seek(0)
        file.truncate()
        file.write(HOLDER + f"{os.getpid()} on {platform.node()}".encode())
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written: {error}",
            expected="room on the disk",
            repair="free space, then run the same command again",
        ) from error


def _signature(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:200].strip()
    except OSError:
        return ""


def _foreign(path: Path, what: str) -> DatasetError:
    return DatasetError(
        f"{path} {what}",
        expected="a file that this program made, and the right to write",
        repair="delete it if it is a link, a folder, or of no use; or write to another path",
    )
