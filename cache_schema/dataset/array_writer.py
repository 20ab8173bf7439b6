"""Writing one stored array of a clip: chunk after chunk, each followed by its checksum.

The bytes are those of FORMAT.md, which Zarr's own writer makes as well. That one needs the length of an array
before its first value, and a whole shard in memory; this one needs neither.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from cache_schema.format.array_metadata import array_document, as_json
from cache_schema.format.layout import ABSENT, CHECKSUM_BYTES, chunk_path, fill_value_of, layout_of
from cache_schema.format.ledger import FileRecord
from cache_schema.storage.atomic_io import sha256_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec

BUFFER_BYTES = 2 * 2**20
"""Bytes that are gathered before a file is opened; between writes none is open."""


class ArrayWriter:
    """Writes one array from its first element to its last.

    Args:
        folder: The clip's folder.
        spec: The feature that the array belongs to.
        stored: The array.
        length: Elements along its leading axis; None if they are counted as they come.
    """

    def __init__(self, folder: Path, spec: FeatureSpec, stored: StoredArray, length: int | None) -> None:
        self.length = 0
        """Elements so far."""
        self.files: dict[str, FileRecord] = {}
        """Files that are finished, by their path in the clip's folder."""
        self._folder, self._spec, self._stored = folder, spec, stored
        self._dtype = np.dtype(stored.dtype).newbyteorder("<")
        # An array whose length is not known has files of the full size until its end.
        self._layout = layout_of(stored, 2**62 if length is None else length)
        self._file = self._chunks = self._in_chunk = self._checksum = 0
        self._buffer = bytearray()
        self._written, self._digest = 0, hashlib.sha256()  # of the file that is being written
        (folder / stored.name).mkdir()
        if length is not None:
            self._write_document(length)

    def append(self, values: np.ndarray) -> None:
        """Add elements (n, *shape)."""
        chunk_length = self._layout.chunks[0]
        values = np.ascontiguousarray(values, self._dtype)
        begin = 0
        while begin < len(values):
            if self._chunks * chunk_length == self._layout.file_length:
                self._end_file(self._layout.index_entries)
            end = min(len(values), begin + chunk_length - self._in_chunk)
            self._write(values[begin:end].tobytes())
            self._in_chunk += end - begin
            if self._in_chunk == chunk_length:
                self._end_chunk()
            begin = end
        self.length += len(values)

    def finish(self) -> None:
        """Write what is left, and the array's zarr.json if its length was not known before."""
        layout = layout_of(self._stored, self.length)
        if self._in_chunk:
            padding = layout.chunks[0] - self._in_chunk
            self._write(np.full(padding, fill_value_of(self._stored), self._dtype).tobytes())
            self._end_chunk()
        if self._chunks:
            self._end_file(layout.index_entries)
        if f"{self._stored.name}/zarr.json" not in self.files:
            self._write_document(self.length)

    def _write_document(self, length: int) -> None:
        document = as_json(array_document(self._spec, self._stored, length))
        name = f"{self._stored.name}/zarr.json"
        (self._folder / name).write_bytes(document)
        self.files[name] = FileRecord(nbytes=len(document), sha256=sha256_bytes(document))

    def _write(self, content: bytes) -> None:
        self._checksum = google_crc32c.extend(self._checksum, content)
        self._buffer += content
        if len(self._buffer) > BUFFER_BYTES:
            self._flush()

    def _end_chunk(self) -> None:
        self._buffer += self._checksum.to_bytes(CHECKSUM_BYTES, "little")
        self._chunks += 1
        self._in_chunk = self._checksum = 0

    def _end_file(self, index_entries: int) -> None:
        """End a file; its index has room for so many chunks."""
        if index_entries:
            stride = self._layout.chunks[0] * self._stored.nbytes + CHECKSUM_BYTES
            index = np.full((index_entries, 2), ABSENT, "<u8")  # offset, length
            index[: self._chunks, 0] = np.arange(self._chunks, dtype=np.uint64) * stride
            index[: self._chunks, 1] = stride
            content = index.tobytes()
            self._buffer += content + google_crc32c.value(content).to_bytes(CHECKSUM_BYTES, "little")
        self._flush()
        name = chunk_path(self._stored, self._file)
        self.files[name] = FileRecord(nbytes=self._written, sha256=self._digest.hexdigest())
        self._written, self._digest = 0, hashlib.sha256()
        self._file += 1
        self._chunks = 0

    def _flush(self) -> None:
        with (self._folder / chunk_path(self._stored, self._file)).open("ab") as file:
            file.write(self._buffer)
        self._written += len(self._buffer)
        self._digest.update(self._buffer)
        self._buffer.clear()
