"""Where a dataset lies: a folder, a prefix of an object store, a web server or a repository of the hub.

Here are what all of them can do and the folder; `objects.py` and `hub.py` hold the others.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import threading
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cache_schema.errors import DatasetError, RequestError
from cache_schema.storage.atomic_io import sync
from cache_schema.storage.safe_io import file_names, file_size, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from zarr.storage import StorePath

CARD = "README.md"
"""What a dataset says of itself to people."""
INDEX = "index.json"
"""Names of the committed clips, for servers that cannot list: ``{"clips": [...]}``, at the dataset's root."""
PIECE_BYTES = 2**20
"""Of a stream: small enough to hold, large enough to hash at full speed."""

Content = Path | bytes
"""What is sent: a local file, or bytes in memory."""


class Listed(NamedTuple):
    """One file as a place lists it."""

    nbytes: int
    etag: str | None
    """The store's own digest; None where it has none that can be computed here."""


class Limits(NamedTuple):
    """What a place advises against exceeding."""

    files: int
    entries_a_folder: int


class Place(ABC):
    """A folder of files, here or far away. Names are relative, with ``/`` between their parts."""

    limits: Limits | None = None
    clips_a_send: int = 1
    """Clips that one ``send`` takes best."""
    senders: int = 8
    """Calls of ``send`` that may run at the same time."""

    def __init__(self, url: str, *, local: Path | None = None) -> None:
        self.url = url
        self.local = local

    def __str__(self) -> str:
        return self.url

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: There is no such file.
            DatasetError: It is larger than ``limit_bytes``; no more than that was read.
            PlaceError: The place cannot be reached.
        """
        content = bytearray()
        for piece in self.stream(name):
            content += piece
            if len(content) > limit_bytes:
                raise DatasetError(
                    f"{self}/{name} has more than {limit_bytes} bytes",
                    expected="a file of a sane size",
                    repair="do not use this dataset: nothing that wrote it makes such files",
                )
        return bytes(content)

    @abstractmethod
    def stream(self, name: str) -> Iterator[bytes | memoryview]:
        """Yield a file's bytes piece by piece; whoever reads decides when it is enough.

        Raises:
            FileNotFoundError: There is no such file.
            PlaceError: The place cannot be reached.
        """

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is no such file."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted; none where it does not exist."""

    @abstractmethod
    def files(self, folder: str = "") -> dict[str, Listed]:
        """Every file below a folder, by its name relative to the place."""

    @abstractmethod
    def zarr_store(self, folder: str = "") -> StorePath:
        """A folder as Zarr opens it, read-only: ``zarr.open_array(place.zarr_store(...), mode="r")``."""

    @abstractmethod
    def send(self, stages: Sequence[Mapping[str, Content]]) -> None:
        """Store files by name, those of a stage only after all of the stage before."""

    def errors(self) -> AbstractContextManager[None]:
        """Turn what the network says into a ``PlaceError``, for whoever reads through ``zarr_store``."""
        return contextlib.nullcontext()


def place_of(where: str | Path) -> Place:
    """Return the place that a path or a URL names.

    Args:
        where: A folder, or a URL: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``https://host/path``,
            ``file:///path``, ``hf://datasets/org/name`` or ``hf://datasets/org/name@revision``.

    Raises:
        RequestError: The URL is of another kind.
        PlaceError: The place cannot be reached.
    """
    if isinstance(where, Path) or "://" not in where:
        return LocalPlace(Path(where))
    parts = urlsplit(where)
    scheme = parts.scheme.lower()
    if scheme == "file" and parts.netloc in ("", "localhost"):
        return LocalPlace(Path(url2pathname(parts.path)))
    if scheme == "hf":
        from cache_schema.storage.huggingface import HubPlace

        return HubPlace(where)
    if parts.netloc and not (parts.query or parts.fragment or "@" in parts.netloc):
        from cache_schema.storage.object_store import BucketPlace, WebPlace

        if scheme == "https" or (scheme == "http" and _is_loopback(parts.hostname or "")):
            return WebPlace(where.rstrip("/"))
        if scheme in ("s3", "gs"):
            return BucketPlace(where.rstrip("/"))
    raise RequestError(
        f"{where!r} names no place that datasets can be in",
        expected="a folder, s3://bucket/prefix, gs://bucket/prefix, https://host/path (http only on this "
        "machine), file:///path or hf://datasets/org/name, without passwords and queries",
        repair="correct the URL; credentials come from the environment",
    )


class LocalPlace(Place):
    """A folder of this machine."""

    senders = 2

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), local=path)
        self.path = path

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a file's bytes; a symbolic link is refused."""
        return read_file(self.path, name, limit_bytes)

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes; a symbolic link is refused."""
        if file_size(self.path, name) is None:
            raise FileNotFoundError(self.path / name)
        with (self.path / name).open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def size(self, name: str) -> int | None:
        """Bytes of a file; a symbolic link is refused."""
        return file_size(self.path, name)

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder; a symbolic link is refused."""
        return file_names(self.path, folder)

    def files(self, folder: str = "") -> dict[str, Listed]:
        """Every file below a folder, but for hidden ones, which are of programs at work."""
        names = (path.relative_to(self.path) for path in (self.path / folder).rglob("*") if path.is_file())
        return {
            name.as_posix(): Listed((self.path / name).stat().st_size, None)
            for name in names
            if not any(part.startswith(".") for part in name.parts)
        }

    def zarr_store(self, folder: str = "") -> StorePath:
        """A folder as Zarr opens it."""
        from zarr.storage import LocalStore, StorePath

        return StorePath(LocalStore(self.path, read_only=True), folder)

    def send(self, stages: Sequence[Mapping[str, Content]]) -> None:
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


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
