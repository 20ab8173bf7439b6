"""Files that a kill or a power cut leaves either whole or absent."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that any reader, at any instant, sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link that somebody left there
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def rename_durably(source: Path, target: Path) -> None:
    """Move a finished file or folder into place within one file system."""
    source.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Force one file, or the listing of one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force every file and every listing below ``folder`` to the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sha256_bytes(content: bytes) -> str:
    """Hex digest of bytes in memory."""
    return hashlib.sha256(content).hexdigest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
