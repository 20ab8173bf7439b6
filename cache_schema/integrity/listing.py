"""Listing folders of an untrusted dataset: no link is followed, no file is opened."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE, FOLDER, LINK, DEVICE = "a file", "a folder", "a symbolic link", "no plain file"
_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: LINK}


class Listed(NamedTuple):
    """One entry of a folder."""

    kind: str
    nbytes: int


def listing(folder: Path | str) -> Iterator[tuple[str, Listed]]:
    """Yield the entries of a folder, sorted by name; none if it is no folder or a link to one."""
    path = os.fspath(folder)
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from sorted(entries_of(path))


def entries_of(path: str) -> Iterator[tuple[str, Listed]]:
    """Yield the entries of a folder, which is no link, in any order."""
    with os.scandir(path) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            yield entry.name, Listed(_KINDS.get(stat.S_IFMT(status.st_mode), DEVICE), status.st_size)


def printable(name: str) -> str:
    """Return a name from an unknown source as a terminal may show it."""
    return name if name.isprintable() else ascii(name)
