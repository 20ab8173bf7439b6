"""What must lie in a clip's folder, known from the manifest and the clip's length alone.

An array's zarr.json is compared with it before Zarr acts on it: another codec could be a decompression bomb,
another chunk shape could take any amount of memory, another fill value could pass for data.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.format.encodings import stored_arrays
from cache_schema.format.layout import file_sizes, fill_value_of, layout_of
from cache_schema.integrity.shard_scan import ChunkFile
from cache_schema.storage.safe_io import canonical_json, parse_json

if TYPE_CHECKING:
    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.ledger import ClipInfo
    from cache_schema.format.manifest import Manifest


def promised_files(manifest: Manifest, frames: int) -> dict[str, ChunkFile | StoredArray | None]:
    """Every file of a clip of ``frames`` frames, by its path in the clip's folder.

    Returns:
        For a file of values what it holds; for a zarr.json the array that it describes, None for the group.
    """
    files: dict[str, ChunkFile | StoredArray | None] = {"zarr.json": None}
    for spec in manifest.features:
        for stored in stored_arrays(spec):
            files[f"{stored.name}/zarr.json"] = stored
            a_file = layout_of(stored, frames).frames_a_file
            for begin, (name, nbytes) in zip(
                range(0, frames, a_file), file_sizes(stored, frames).items(), strict=True
            ):
                files[name] = ChunkFile(spec, stored, frames, min(a_file, frames - begin), nbytes)
    return files


def check_group(content: bytes, clip: ClipInfo) -> str | None:
    """Compare the bytes of a clip's own zarr.json with what the ledger says; None if nothing differs."""
    attributes = clip.model_dump(mode="json", exclude={"name"})
    try:
        document = parse_json(content)
    except ValueError as error:
        return f"is not plain JSON: {error}"
    if document != {"zarr_format": 3, "node_type": "group", "attributes": attributes}:
        return "does not say of the clip what the ledger says"
    return None


def check_document(content: bytes, stored: StoredArray, frames: int) -> str | None:
    """Compare the bytes of an array's zarr.json with what the manifest promises; None if nothing differs.

    Attributes only repeat the manifest for whoever reads without it, and may say anything.
    """
    try:
        document = parse_json(content)
    except ValueError as error:
        return f"is not plain JSON: {error}"
    if not isinstance(document, dict):
        return "is no JSON object"
    document.pop("attributes", None)
    if not document.get("storage_transformers", True):
        del document["storage_transformers"]  # an empty list says what silence says
    if canonical_json(document) == _promised_bytes(stored, frames):
        return None
    promised = promised_document(stored, frames)
    for key in sorted({*document, *promised}):
        if key not in promised:
            return f"says {key!r}, which no array of this format does"
        if key not in document:
            return f"says nothing of {key!r}"
        if canonical_json(document[key]) != canonical_json(promised[key]):
            return f"says {key} {_short(document[key])}, where the manifest promises {_short(promised[key])}"
    return None


def promised_document(stored: StoredArray, frames: int) -> dict[str, Any]:
    """The zarr.json of an array of ``frames`` frames, less its attributes."""
    layout = layout_of(stored, frames)
    little_endian = {"configuration": {"endian": "little"}} if np.dtype(stored.dtype).itemsize > 1 else {}
    chain = [{"name": "bytes", **little_endian}, {"name": "crc32c"}]
    if layout.shards is not None:
        sharding = {
            "chunk_shape": layout.chunks,
            "codecs": chain,
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": "end",
        }
        chain = [{"name": "sharding_indexed", "configuration": sharding}]
    fill_value = fill_value_of(stored)
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": (frames, *stored.shape),
        "data_type": stored.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": layout.shards or layout.chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": chain,
        "fill_value": "NaN" if fill_value != fill_value else fill_value,
        "dimension_names": ("frame", *stored.axes),
    }


@functools.lru_cache(4096)
def _promised_bytes(stored: StoredArray, frames: int) -> bytes:
    return canonical_json(promised_document(stored, frames))


def _short(value: object) -> str:
    text = canonical_json(value).decode()
    return text if len(text) <= 300 else text[:300] + "…"
