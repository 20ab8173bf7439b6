"""Files that a kill or a power cut leaves either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from typing import TYPE_CHECKING

from cache_schema.errors import RequestError
from cache_schema.storage.paths import refuse_inside_store

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that any reader, at any instant, sees the old file or the new one."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # A name of its own: a process on another machine may have the same number.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with naming(path):
        try:
            with temporary.open("xb") as file:  # never through a link that was left there
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Give errors the name of the file that is written: a full disk names none, others a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextlib.contextmanager
def new_file(target: Path, *failures: type[Exception]) -> Generator[Path]:
    """Yield a path to write a file or a folder to: the target's own name in a hidden folder beside it.

    Once written, it and all others put beside it move to the folder of the target, the target last.

    Args:
        target: Where the file or folder is to be; nothing may be there yet.
        failures: What a writing library raises besides OSError where the disk refuses.

    Raises:
        RequestError: The target exists already, its folder does not or is part of a dataset, or it cannot be
            written.
    """
    folder = target.parent / f".{target.name}.partial"
    try:
        refuse_inside_store(target)
        _refuse_existing(target)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder / target.name
        follow_umask(folder)
        sync_tree(folder)
        files = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
        for file in files:
            _refuse_existing(target.parent / file.name)
        for file in files:
            rename_durably(file, target.parent / file.name)
    except (OSError, *failures) as error:
        raise RequestError(
            f"{target} cannot be written: {error}",
            expected="room for the weights, and the right to write",
            repair="free space, or give another path",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_existing(target: Path) -> None:
    if target.exists() or not target.parent.is_dir():
        raise RequestError(
            f"{target} " + ("exists already" if target.exists() else "is in a folder that does not exist"),
            expected="a new file, or a new folder, in a folder that exists",
            repair="give another path, or move what is there",
        )


def follow_umask(folder: Path) -> None:
    """Give the files of a folder that was just made the rights that the umask left it.

    Some libraries write files that only their owner can read.
    """
    rights = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(rights)


def rename_durably(source: Path, target: Path) -> None:
    """Move a finished file or folder into place within one file system."""
    source.rename(target)
    sync(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that do not exist; once it returns, a power cut leaves them there."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in (path, *missing):
        with contextlib.suppress(PermissionError):  # a folder that one may write to, but not list
            sync(folder.parent)


def sync(path: Path) -> None:
    """Flush one file, or the listing of one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file and every listing below ``folder`` to the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sha256_bytes(content: bytes) -> str:
    """Hex digest of bytes in memory."""
    return hashlib.sha256(content).hexdigest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
