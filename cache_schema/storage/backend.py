"""What every place that can hold a dataset is able to do: list, read, stream and store files by name."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cache_schema.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from zarr.storage import StorePath

CARD = "README.md"
"""The dataset card."""
INDEX = "index.json"
"""Names of the committed clips, for servers that cannot list: ``{"clips": [...]}``, at the dataset's root."""
BLOCK_BYTES = 2**20
"""Block of a stream: small enough to hold, large enough to hash at full speed."""

Content = Path | bytes
"""What is stored: a local file, or bytes in memory."""


class ListedFile(NamedTuple):
    """One file as a backend lists it."""

    nbytes: int
    etag: str | None
    """The store's own digest; None where it has none that can be computed here."""


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
        content = bytearray()
        for block in self.stream(name):
            content += block
            if len(content) > limit_bytes:
                raise DatasetError(
                    f"{self}/{name} has more than {limit_bytes} bytes",
                    expected="a file of a plausible size",
                    repair="do not use this dataset: no program that writes datasets makes such files",
                )
        return bytes(content)

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

    @abstractmethod
    def zarr_store(self, folder: str) -> StorePath:
        """Return a folder as a read-only store: ``zarr.open_array(backend.zarr_store(...), mode="r")``."""

    @abstractmethod
    def upload(self, stages: Sequence[Mapping[str, Content]]) -> None:
        """Store files by name, those of a stage only after all of the stage before."""

    def errors(self) -> AbstractContextManager[None]:
        """Turn exceptions of the network into ``StorageError``, for reads through ``zarr_store``."""
        return contextlib.nullcontext()
