"""The zarr.json of a clip's group and arrays: made here once, written from it and compared with it.

An array's zarr.json is compared before Zarr acts on it: another codec could be a decompression bomb, another
chunk shape could take any amount of memory, another fill value could pass for data.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.format.clip_files import stored_length
from cache_schema.format.encodings import SCALE, stored_arrays
from cache_schema.format.layout import fill_value_of, layout_of
from cache_schema.format.ragged import SHAPE
from cache_schema.storage.safe_io import canonical_json, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import ClipInfo

CLIPS_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
"""The only content of ``clips/zarr.json``."""
KEYS = (
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
    "attributes",
    "dimension_names",
    "zarr_format",
    "node_type",
    "storage_transformers",
)
"""Keys of an array's zarr.json, in the order in which Zarr's own writer has them."""


def clip_group(clip: ClipInfo) -> dict[str, Any]:
    """Return the zarr.json of a clip's group."""
    return CLIPS_GROUP | {"attributes": clip.model_dump(mode="json", exclude={"name"})}


def array_document(spec: FeatureSpec, stored: StoredArray, length: int) -> dict[str, Any]:
    """Return the zarr.json of one array of a feature.

    Args:
        spec: The feature.
        stored: The array.
        length: Elements along its leading axis.
    """
    attributes = spec.model_dump(mode="json", include={"role", "unit", "frame", "encoding", "description"})
    if stored.name.endswith(SCALE):
        attributes["description"] = f"What one step of {spec.name} is worth, by frame and channel."
    if stored.name.endswith(SHAPE):
        attributes["description"] = f"Shape of {spec.name}, by frame."
    promised = {"attributes": attributes, **promised_document(stored, length), "storage_transformers": []}
    return {key: promised[key] for key in KEYS}


def documents(features: Iterable[FeatureSpec], clip: ClipInfo, values: Mapping[str, int]) -> dict[str, bytes]:
    """Return the zarr.json files of a clip as they are written, by their paths in the clip's folder.

    Args:
        features: What the manifest promises.
        clip: The clip.
        values: Stored values of every ragged feature, by its name.
    """
    found = {"zarr.json": as_json(clip_group(clip))}
    for spec in features:
        for stored in stored_arrays(spec):
            length = stored_length(stored, clip.frames, values)
            found[f"{stored.name}/zarr.json"] = as_json(array_document(spec, stored, length))
    return found


def as_json(document: dict[str, Any]) -> bytes:
    """Return a document as Zarr's own writer spells it."""
    return json.dumps(document, indent=2).encode()


def check_group(content: bytes, clip: ClipInfo) -> str | None:
    """Compare the bytes of a clip's own zarr.json with the ledger; None if nothing differs."""
    try:
        document = parse_json(content)
    except ValueError as error:
        return f"is not plain JSON: {error}"
    if document != clip_group(clip):
        return "has other attributes of the clip than the ledger"
    return None


@functools.lru_cache(4096)
def check_document(content: bytes, stored: StoredArray, length: int) -> str | None:
    """Compare the bytes of an array's zarr.json with what the manifest promises; None if nothing differs.

    Attributes only repeat the manifest for readers without it, and may be anything. What was found is
    remembered: clips of equal length have equal files.
    """
    try:
        document = parse_json(content)
    except ValueError as error:
        return f"is not plain JSON: {error}"
    if not isinstance(document, dict):
        return "is no JSON object"
    document.pop("attributes", None)
    if not document.get("storage_transformers", True):
        del document["storage_transformers"]  # an empty list means the same as none
    if canonical_json(document) == _promised_bytes(stored, length):
        return None
    promised = promised_document(stored, length)
    for key in sorted({*document, *promised}):
        if key not in promised:
            return f"has {key!r}, which no array of this format has"
        if key not in document:
            return f"lacks {key!r}"
        if canonical_json(document[key]) != canonical_json(promised[key]):
            return f"has {key} {_short(document[key])}, where the manifest promises {_short(promised[key])}"
    return None


def promised_document(stored: StoredArray, length: int) -> dict[str, Any]:
    """Return what the manifest promises of the zarr.json of an array: all of it but the attributes."""
    layout = layout_of(stored, length)
    little_endian = {"configuration": {"endian": "little"}} if np.dtype(stored.dtype).itemsize > 1 else {}
    codecs = [{"name": "bytes", **little_endian}, {"name": "crc32c"}]
    if layout.shards is not None:
        sharding = {
            "chunk_shape": layout.chunks,
            "codecs": codecs,
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    fill_value = fill_value_of(stored)
    return {
        "shape": (length, *stored.shape),
        "data_type": stored.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": layout.shards or layout.chunks}},
        # One folder an array, not one a dimension.
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if fill_value != fill_value else fill_value,
        "codecs": codecs,
        "dimension_names": (stored.leading, *stored.axes),
        "zarr_format": 3,
        "node_type": "array",
    }


@functools.lru_cache(4096)
def _promised_bytes(stored: StoredArray, length: int) -> bytes:
    return canonical_json(promised_document(stored, length))


def _short(value: object) -> str:
    text = canonical_json(value).decode()
    return text if len(text) <= 300 else text[:300] + "…"
