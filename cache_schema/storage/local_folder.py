"""A folder of this machine as a storage backend."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cache_schema.storage.atomic_io import sync
from cache_schema.storage.backend import BLOCK_BYTES, ListedFile, StorageBackend
from cache_schema.storage.safe_io import file_names, file_size, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from zarr.storage import StorePath

    from cache_schema.storage.backend import Content


class LocalBackend(StorageBackend):
    """A folder of this machine. Symbolic links inside it are refused."""

    parallel_uploads = 2

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), local=path)
        self.path = path

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a file's bytes."""
        return read_file(self.path, name, limit_bytes)

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes."""
        if file_size(self.path, name) is None:
            raise FileNotFoundError(self.path / name)
        with (self.path / name).open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes."""
        return file_size(self.path, name)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder."""
        return file_names(self.path, folder)

    def files(self, folder: str = "") -> dict[str, ListedFile]:
        """Return every file below a folder but for hidden ones, which belong to programs at work."""
        names = (path.relative_to(self.path) for path in (self.path / folder).rglob("*") if path.is_file())
        return {
            name.as_posix(): ListedFile((self.path / name).stat().st_size, None)
            for name in names
            if not any(part.startswith(".") for part in name.parts)
        }

    def zarr_store(self, folder: str = "") -> StorePath:
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
