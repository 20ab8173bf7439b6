"""Buckets as storage backends, on obstore.

obstore rather than fsspec: it is one wheel that supports all of them with exact byte ranges, time limits and
retries, where fsspec needs a library with its own pins and its own errors for each (s3fs, gcsfs, aiohttp).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import GCSStore, S3Store

from cache_schema.errors import RequestError, StorageError
from cache_schema.storage.backend import SLOWEST_BYTES, SLOWEST_S, ListedFile, StorageBackend, read_blocks

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from obstore.store import ClientConfig, ObjectStore, RetryConfig

    from cache_schema.storage.backend import Content, LocalFile

PART_BYTES = 8 * 2**20
"""Larger files are uploaded in parts, so that an upload never holds a whole shard in memory."""
RETRIES: RetryConfig = {
    "max_retries": 8,
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=15),
        "base": 2,
    },
    "retry_timeout": timedelta(minutes=3),
}
"""Where a server is busy or a connection breaks. An object is put whole or not at all, so again is safe."""
SMALL = "1m"
"""Limit of requests whose answers are small."""
ENDPOINT_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
S3_REPAIR = (
    "check bucket and network, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL; "
    "for a public bucket set AWS_SKIP_SIGNATURE=true"
)
GS_REPAIR = (
    "check bucket and network, and GOOGLE_APPLICATION_CREDENTIALS; "
    "for a public bucket set GOOGLE_SKIP_SIGNATURE=true"
)


class BucketBackend(StorageBackend):
    """A prefix of a bucket of S3, of any server with the S3 protocol, or of Google Cloud Storage."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._repair = GS_REPAIR if url.startswith("gs:") else S3_REPAIR
        with self.errors():
            self._store = _bucket_store(url, "1h")
            self._small = _bucket_store(url, SMALL)

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a file's bytes."""
        return read_blocks(self, name, self._pieces(self._small, name), limit_bytes)

    def stream(self, name: str) -> Iterator[memoryview]:
        """Yield a file's bytes."""
        return self._pieces(self._store, name)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes."""
        with self.errors():
            try:
                return obstore.head(self._small, name)["size"]
            except FileNotFoundError:
                return None

    def read_ranges(self, name: str, nbytes: int, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Return parts of a file, one behind the other; neighbours are fetched together."""
        with self.errors():
            if list(ranges) == [(0, nbytes)]:
                return self.read(name, nbytes)
            if len(ranges) > 1:
                begins, lengths = zip(*ranges, strict=True)
                return b"".join(
                    bytes(part)
                    for part in obstore.get_ranges(self._store, name, starts=begins, lengths=lengths)
                )
            ((begin, length),) = ranges
            found = obstore.get(self._store, name, options={"range": (begin, begin + length)})
            if found.meta["size"] != nbytes:
                raise FileNotFoundError(f"{self}/{name} has another size than {nbytes} bytes")
            return bytes(found.bytes())

    def errors(self) -> AbstractContextManager[None]:
        """Turn the client's exceptions into ``StorageError``."""
        return _storage_errors(self.url, self._repair)

    def _pieces(self, store: ObjectStore, name: str) -> Iterator[memoryview]:
        waited, arrived = 0.0, 0
        with self.errors():
            pieces = iter(obstore.get(store, name).stream(min_chunk_size=1))
            while True:
                begun = time.monotonic()
                piece = next(pieces, None)
                if piece is None:
                    return
                waited += time.monotonic() - begun
                arrived += len(piece)
                if arrived >= SLOWEST_BYTES:
                    waited, arrived = 0.0, 0
                elif waited > SLOWEST_S:
                    raise StorageError(
                        f"{self.url} cannot be used: {name}: {arrived} bytes came in {waited:.0f} s",
                        expected="a server that sends at least a kilobyte a second",
                        repair=f"{self._repair}; then run the same command again, what is finished is kept",
                    )
                yield memoryview(piece)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder."""
        with self.errors():
            found = obstore.list_with_delimiter(self._small, folder)["objects"]
        return sorted(entry["path"].rpartition("/")[2] for entry in found)

    def files(self) -> dict[str, ListedFile]:
        """Return every file."""
        with self.errors():
            return {
                entry["path"]: ListedFile(entry["size"], (entry["e_tag"] or "").strip('"') or None)
                for batch in obstore.list(self._small, chunk_size=1000)
                for entry in batch
            }

    def upload(self, stages: Sequence[Mapping[str, Content]]) -> None:
        """Put objects, each of them atomically."""
        with self.errors():
            for stage in stages:
                for name, content in stage.items():
                    if isinstance(content, bytes):
                        obstore.put(self._store, name, content, use_multipart=False)
                    elif content.nbytes <= PART_BYTES:
                        whole = b"".join(content.blocks())
                        obstore.put(self._store, name, whole, use_multipart=False)
                    else:
                        # An object appears once its last part is there, and that comes after the check.
                        obstore.put(self._store, name, content.blocks(), chunk_size=PART_BYTES)

    def holds(self, name: str, listed: ListedFile, file: LocalFile) -> bool:
        """Return whether an object that is there is this file."""
        if listed.nbytes != file.nbytes:
            return False
        if re.fullmatch(r"[0-9a-f]{32}(-\d+)?", listed.etag or ""):
            return listed.etag == etag_of(file)
        return super().holds(name, listed, file)


def etag_of(file: LocalFile) -> str:
    """Return the digest that S3 has of a file which was uploaded in parts of ``PART_BYTES``.

    Raises:
        DatasetError: The file is damaged.
    """
    parts = [hashlib.md5(part, usedforsecurity=False) for part in file.blocks(PART_BYTES)]
    if len(parts) == 1:
        return parts[0].hexdigest()
    together = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False)
    return f"{together.hexdigest()}-{len(parts)}"


def client_options(timeout: str, **options: object) -> ClientConfig:
    """Return options with time limits for every request: a stall ends it before ``timeout`` does."""
    return {"connect_timeout": "10s", "read_timeout": "60s", "timeout": timeout, **options}


def _bucket_store(url: str, timeout: str) -> ObjectStore:
    """Return a store whose requests take no longer than ``timeout``."""
    if url.startswith("gs:"):
        return GCSStore.from_url(url, client_options=client_options(timeout), retry_config=RETRIES)
    endpoint = _endpoint()
    if not endpoint:
        return S3Store.from_url(url, client_options=client_options(timeout), retry_config=RETRIES)
    # An endpoint without encryption is named on purpose: a server of the user's own.
    options = client_options(timeout, allow_http=endpoint.startswith("http:"))
    return S3Store.from_url(url, endpoint=endpoint, client_options=options, retry_config=RETRIES)


def _endpoint() -> str | None:
    """Return the server that the environment names, if it does.

    Raises:
        RequestError: It is no address.
    """
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        endpoint = os.environ.get(variable)
        if not endpoint:
            continue
        try:
            parts = urlsplit(endpoint)
            valid = parts.scheme in ("http", "https") and ENDPOINT_HOST.fullmatch(parts.hostname or "")
            valid = valid and parts.port != 0 and endpoint.isascii() and endpoint.isprintable()
        except ValueError:  # a port that is no number
            valid = False
        if not valid or " " in endpoint:
            raise RequestError(
                f"{variable} is {endpoint!r}, which is no address",
                expected="an address such as https://host:9000",
                repair=f"correct {variable}, or unset it for Amazon's own servers",
            )
        return endpoint
    return None


@contextlib.contextmanager
def _storage_errors(url: str, repair: str) -> Generator[None]:
    try:
        yield
    except BaseError as error:
        # The rest is a dump of the client's own structures.
        message = " ".join(str(error).partition("\n\nDebug source")[0].split())
        raise StorageError(
            f"{url} cannot be used: {message}",
            expected="storage that exists, answers, and grants access",
            repair=f"{repair}; then run the same command again, what is finished is kept",
        ) from error
