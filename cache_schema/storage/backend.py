"""What every place that can hold a dataset is able to do: list, read, stream and store files by name."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from cache_schema.errors import DatasetError
from cache_schema.storage.safe_io import open_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

CARD = "README.md"
"""The dataset card."""
INDEX = "index.json"
"""Names of the committed clips, for servers that cannot list: ``{"clips": [...]}``, at the dataset's root."""
SLOWEST_BYTES, SLOWEST_S = 2**16, 60.0
"""So many bytes, or the rest of an answer, arrive from a server within so many seconds of waiting."""
BLOCK_BYTES = 2**20
"""Block of a stream: small enough to hold, large enough to hash at full speed."""


class LocalFile(NamedTuple):
    """A file of this machine that is to be stored, and what it has to hold."""

    path: Path
    nbytes: int
    sha256: str

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Yield its bytes, the last block only once all are known to be right: who stores them can stop.

        Raises:
            DatasetError: It is missing, no plain file, or holds other bytes.
        """
        digest, nbytes = hashlib.sha256(), 0
        try:
            with open_plain(self.path) as file:
                block = file.read(block_bytes)
                while block:
                    digest.update(block)
                    nbytes += len(block)
                    following = file.read(block_bytes) if nbytes <= self.nbytes else b""
                    if not following:
                        break
                    yield block
                    block = following
        except OSError as error:
            raise self.damaged(f"cannot be read: {error.strerror}") from error
        if nbytes != self.nbytes or digest.hexdigest() != self.sha256:
            raise self.damaged("holds other bytes than were written")
        yield block

    def damaged(self, what: str) -> DatasetError:
        """Return the error that says what is wrong with it."""
        return DatasetError(
            f"{self.path} {what}",
            expected=f"{self.nbytes} bytes with sha256 {self.sha256}",
            repair="run `teachonce repair`, and extract or pull again what it took out; then run the same "
            "command again",
        )


Content = LocalFile | bytes
"""What is stored: a local file, or bytes in memory."""


class ListedFile(NamedTuple):
    """One file as a backend lists it."""

    nbytes: int
    etag: str | None = None
    """The store's own digest; None where it has none."""
    sha256: str | None = None
    """sha256, where the store knows it."""


class Limits(NamedTuple):
    """Counts that a backend advises not to exceed."""

    files: int
    entries_per_folder: int


class StorageBackend(ABC):
    """A folder of files, local or remote. Names are relative, with ``/`` between their parts."""

    limits: Limits | None = None
    clips_per_upload: int = 1
    """Number of clips that one ``upload`` takes best."""
    parallel_uploads: int = 8
    """Calls of ``upload`` that may run at the same time."""
    compares_quickly: bool = False
    """Whether ``holds`` needs neither the network nor whole local files."""

    def __init__(self, url: str, *, local: Path | None = None) -> None:
        self.url = url
        self.local = local
        """The folder, where it is on this machine."""

    def __str__(self) -> str:
        return self.url

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: There is no such file.
            DatasetError: It is larger than ``limit_bytes``; no more than that was read.
            StorageError: The backend cannot be reached.
        """
        return read_blocks(self, name, self.stream(name), limit_bytes)

    @abstractmethod
    def stream(self, name: str) -> Iterator[bytes | memoryview]:
        """Yield a file's bytes block by block; the caller may stop at any block.

        Raises:
            FileNotFoundError: There is no such file.
            StorageError: The backend cannot be reached.
        """

    @abstractmethod
    def read_ranges(self, name: str, nbytes: int, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Return parts of a file, one behind the other.

        Args:
            name: The file.
            nbytes: Its size.
            ranges: Where each part begins, and how many bytes it has.

        Raises:
            FileNotFoundError: There is no such file, or it has another size.
            StorageError: The backend cannot be reached.
        """

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None where there is no such file."""

    def version(self, name: str) -> object:
        """Return something that changes when a file is written again; None where that is not known."""
        return None

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder, sorted; none where it does not exist."""

    @abstractmethod
    def files(self) -> dict[str, ListedFile]:
        """Return every file, by its name."""

    def holds(self, name: str, listed: ListedFile, file: LocalFile) -> bool:
        """Return whether a file that is there is this one, by its digest.

        Raises:
            DatasetError: It cannot be told, because the local file is damaged.
            StorageError: The backend cannot be reached.
        """
        if listed.nbytes != file.nbytes:
            return False
        digest = hashlib.sha256()
        for block in self.stream(name):
            digest.update(block)
        return digest.hexdigest() == file.sha256

    @abstractmethod
    def upload(self, stages: Sequence[Mapping[str, Content]]) -> None:
        """Store files by name, those of a stage only after all of the stage before."""

    def errors(self) -> AbstractContextManager[None]:
        """Turn exceptions of the network into ``StorageError``, for reads through ``zarr_store``."""
        return contextlib.nullcontext()


def read_blocks(
    backend: StorageBackend, name: str, blocks: Iterable[bytes | memoryview], limit_bytes: int
) -> bytes:
    """Return the blocks of a file together; see ``StorageBackend.read``."""
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > limit_bytes:
            raise DatasetError(
                f"{backend}/{name} has more than {limit_bytes} bytes",
                expected="a file of a plausible size",
                repair="do not use this dataset: no program that writes datasets makes such files",
            )
    return bytes(content)
