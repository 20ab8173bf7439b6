"""A folder of this machine as a storage backend."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cache_schema.errors import DatasetError
from cache_schema.storage.atomic_io import sync
from cache_schema.storage.backend import BLOCK_BYTES, ListedFile, StorageBackend
from cache_schema.storage.paths import absolute

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from zarr.storage import StorePath

    from cache_schema.storage.backend import Content


class LocalBackend(StorageBackend):
    """A folder of this machine, which may hold an untrusted dataset.

    It may lie behind symbolic links; nothing inside may, since a link could lead out of the dataset. Whatever
    is neither a plain file nor a plain folder is refused as well, with a ``DatasetError``.
    """

    parallel_uploads = 2

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
        return (self.path / name).read_bytes()

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes."""
        self._existing(name)
        with (self.path / name).open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block

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
            name.as_posix(): ListedFile((self.path / name).stat().st_size, None)
            for name in names
            if not any(part.startswith(".") for part in name.parts)
        }

    def zarr_store(self, folder: str) -> StorePath:
        """Return a folder as a read-only Zarr store."""
        from zarr.storage import LocalStore, StorePath

        return StorePath(LocalStore(self.path, read_only=True), folder)

    def upload(self, stages: Sequence[Mapping[str, Content]]) -> None:
        """Copy files; each is whole or absent, whatever happens."""
        # Beside the folders that are filled, so that a copy which is killed leaves nothing in them.
        temporary = self.path / f".{os.getpid()}-{threading.get_ident()}.tmp"
        for stage in stages:
            for name, content in stage.items():
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    temporary.write_bytes(content)
                else:
                    shutil.copyfile(content, temporary)
                sync(temporary)
                temporary.replace(target)
            for folder in {folder for name in stage for folder in PurePosixPath(name).parents}:
                sync(self.path / folder)

    def _existing(self, name: str) -> int:
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(self.path / name)
        return size

    def _status(self, name: str) -> os.stat_result | None:
        path = os.fspath(self.path)
        status = None
        for part in PurePosixPath(name).parts:
            path = os.path.join(path, part)
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
