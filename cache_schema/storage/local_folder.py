"""A folder of this machine as a storage backend."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cache_schema.errors import DatasetError
from cache_schema.storage.atomic_io import sync
from cache_schema.storage.backend import BLOCK_BYTES, ListedFile, StorageBackend
from cache_schema.storage.paths import absolute
from cache_schema.storage.safe_io import open_plain, read_plain

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from cache_schema.storage.backend import Content

TEMPORARY = re.compile(r"\.\d+-\d+\.tmp")
"""Names of copies at work, directly in the folder that is filled."""


class LocalBackend(StorageBackend):
    """A folder of this machine, which may hold an untrusted dataset.

    It may lie behind symbolic links; nothing inside may, since a link could lead out of the dataset. Whatever
    is neither a plain file nor a plain folder is refused as well, with a ``DatasetError``.
    """

    parallel_uploads = 2
    compares_quickly = True

    def __init__(self, path: Path) -> None:
        # Absolute, since the working folder may change, and libraries refuse a path with "..".
        self.path = absolute(path)
        super().__init__(str(path), local=self.path)

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a file's bytes."""
        size = self._existing(name)
        if size > limit_bytes:
            raise DatasetError(
                f"{self.path / name} has {size} bytes",
                expected=f"at most {limit_bytes}",
                repair="fetch this file again from where the dataset came from",
            )
        return read_plain(f"{self.path}/{name}", limit_bytes)  # no Path: there are thousands

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes."""
        self._existing(name)
        with open_plain(self.path / name) as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    def read_ranges(self, name: str, nbytes: int, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Return parts of a file, one behind the other."""
        self._existing(name)
        with open_plain(self.path / name) as file:
            # The open file, which can no longer become another.
            if os.fstat(file.fileno()).st_size != nbytes:
                raise FileNotFoundError(f"{self.path / name} has another size than {nbytes} bytes")
            parts = [os.pread(file.fileno(), length, begin) for begin, length in ranges]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes."""
        status = self._status(name)
        if status is None:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(
                f"{self.path / name} is no file",
                expected="a plain file",
                repair="fetch this file again from where the dataset came from",
            )
        return status.st_size

    def version(self, name: str) -> object:
        """Return what tells a file from one that takes its place; None if there is none."""
        try:
            status = os.lstat(f"{self.path}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder."""
        status = self._status(folder)
        if status is None:
            return []
        if not stat.S_ISDIR(status.st_mode):
            raise DatasetError(
                f"{self.path / folder} is no folder",
                expected="a plain folder",
                repair="fetch the dataset again from where it came from",
            )
        with os.scandir(self.path / folder) as entries:
            # Links are listed too, so that reading one raises an error that names it.
            return sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))

    def files(self) -> dict[str, ListedFile]:
        """Return every file but for hidden ones, which belong to programs at work."""
        names = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return {
            name.as_posix(): ListedFile((self.path / name).stat().st_size)
            for name in names
            if not any(part.startswith(".") for part in name.parts)
        }

    def upload(self, stages: Sequence[Mapping[str, Content]]) -> None:
        """Copy files; each is whole or absent, whatever happens."""
        for stage in stages:
            for name, content in stage.items():
                self._status(name)  # nothing is written through a link
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._temporary() as (file, temporary):
                    for block in (content,) if isinstance(content, bytes) else content.blocks():
                        file.write(block)
                    file.flush()
                    os.fsync(file.fileno())
                    temporary.replace(target)
            for folder in {folder for name in stage for folder in PurePosixPath(name).parents}:
                sync(self.path / folder)

    def clear_remains(self) -> None:
        """Remove the copies of uploads that were killed: a living one holds a lock on its copy."""
        if not self.path.is_dir():
            return
        for path in self.path.iterdir():
            with contextlib.suppress(OSError, DatasetError):
                if TEMPORARY.fullmatch(path.name):
                    with open_plain(path) as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()

    @contextlib.contextmanager
    def _temporary(self) -> Generator[tuple[BinaryIO, Path]]:
        """Open a file beside the folders that are filled, so that a kill leaves nothing in them."""
        path = self.path / f".{os.getpid()}-{threading.get_ident()}.tmp"
        while True:
            path.unlink(missing_ok=True)
            with path.open("xb") as file:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                if not os.fstat(file.fileno()).st_nlink:
                    continue  # another upload cleared it before it was locked
                try:
                    yield file, path
                finally:
                    path.unlink(missing_ok=True)
            return

    def _existing(self, name: str) -> int:
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(self.path / name)
        return size

    def _status(self, name: str) -> os.stat_result | None:
        path = os.fspath(self.path)
        status = None
        for part in name.split("/"):
            path = f"{path}/{part}"
            try:
                status = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if stat.S_ISLNK(status.st_mode):
                raise DatasetError(
                    f"{path} is a symbolic link",
                    expected="plain files and folders: a link could lead anywhere",
                    repair="put the file itself there, or do not use a dataset whose source is not trusted",
                )
        return status
