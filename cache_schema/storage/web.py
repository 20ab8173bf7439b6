"""A folder behind a web server as a storage backend."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cache_schema.errors import DatasetError, StorageError
from cache_schema.storage.backend import INDEX, ListedFile, StorageBackend
from cache_schema.storage.safe_io import CLIP_NAME, JSON_BYTES, parse_json
from cache_schema.storage.web_client import WebClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cache_schema.storage.backend import Content

REPAIR = "check the address and the network; from a server without byte ranges, `teachonce pull` it whole"


class WebBackend(StorageBackend):
    """A folder behind a web server, read-only. It cannot be listed: ``index.json`` names the clips."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client = WebClient(url, repair=REPAIR)

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes."""
        yield from self._client.stream(name)

    def read_ranges(self, name: str, nbytes: int, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Return parts of a file, one behind the other."""
        return self._client.ranges(name, nbytes, ranges)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes."""
        return self._client.size(name)

    def names(self, folder: str) -> list[str]:
        """Return the names of the ledger's files from the index; no other folder can be listed."""
        if folder != "ledger":
            raise self._unsupported(f"list {folder}/")
        try:
            clips = parse_json(self.read(INDEX, JSON_BYTES))["clips"]
            if not all(re.fullmatch(CLIP_NAME, clip) for clip in clips):
                raise ValueError("it lists a name that no clip can have")
        except FileNotFoundError as error:
            raise self._unsupported(f"list which clips it has: there is no {INDEX}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{self}/{INDEX} is no index of a dataset: {error!r}",
                expected='JSON such as {"clips": ["Accident_Town03_Route1_Weather0"]}',
                repair="ask the publisher of the dataset to push it again",
            ) from error
        return sorted(f"{clip}.json" for clip in clips)

    def files(self) -> dict[str, ListedFile]:
        """Refuse: a web server's files cannot be listed."""
        raise self._unsupported("list its files")

    def upload(self, stages: Sequence[Mapping[str, Content]]) -> None:
        """Refuse: a web server is read-only."""
        raise self._unsupported("store files")

    def _unsupported(self, operation: str) -> StorageError:
        return StorageError(
            f"{self} cannot {operation}",
            expected="for reading, a folder that `teachonce push` filled; for writing, a bucket or a folder",
            repair="push to a folder or bucket, and let the web server serve that",
        )
