"""Files of a web server as a read-only Zarr store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from cache_schema.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from cache_schema.storage.web_client import WebClient

FILE_BYTES = 2**30
"""No file of a dataset's values is larger, and no more is read into memory."""


class WebZarrStore(Store):
    """Reads through a ``WebClient``. A web server cannot be listed, and nothing is written to it."""

    supports_writes = supports_deletes = supports_partial_writes = supports_listing = False

    def __init__(self, client: WebClient) -> None:
        super().__init__(read_only=True)
        self._client = client

    def __eq__(self, value: object) -> bool:
        return isinstance(value, WebZarrStore) and value._client is self._client

    def __hash__(self) -> int:
        return id(self._client)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a file or a range of its bytes; None where there is no such file."""
        try:
            content = await asyncio.to_thread(self._read, key, _span(byte_range))
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> Sequence[Buffer | None]:
        """Return several ranges."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Return whether there is such a file."""
        return await asyncio.to_thread(self._client.size, key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse."""
        self._check_writable()

    def list(self) -> AsyncIterator[str]:
        """Refuse."""
        raise NotImplementedError

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refuse."""
        raise NotImplementedError

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Refuse."""
        raise NotImplementedError

    def _read(self, key: str, span: str | None) -> bytes:
        content = bytearray()
        for block in self._client.stream(key, span):
            content += block
            if len(content) > FILE_BYTES:
                raise DatasetError(
                    f"{self._client.root}/{key} has more than {FILE_BYTES} bytes",
                    expected="a file of a plausible size",
                    repair="do not use this dataset: no program that writes datasets makes such files",
                )
        return bytes(content)


def _span(part: ByteRequest | None) -> str | None:
    """Return a range as the header Range has it."""
    match part:
        case RangeByteRequest(start, end):
            return f"bytes={start}-{end - 1}"
        case OffsetByteRequest(offset):
            return f"bytes={offset}-"
        case SuffixByteRequest(suffix):
            return f"bytes=-{suffix}"
    return None
