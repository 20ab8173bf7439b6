"""Stored arrays as Zarr has them, without fill values: a file that is not there is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zarr
from zarr.storage import LocalStore, StorePath, WrapperStore

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


def open_array(folder: Path) -> zarr.Array:
    """Open an array for reading; that raises ``FileNotFoundError`` where one of its files is missing."""
    store = _WholeStore(LocalStore(folder, read_only=True))
    return zarr.open_array(StorePath(store), mode="r", zarr_format=3)


class _WholeStore(WrapperStore):
    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer:
        found = await super().get(key, prototype, byte_range)
        if found is None:
            raise FileNotFoundError(f"{key} is missing in {self._store}")
        return found
