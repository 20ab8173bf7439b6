"""Reading a dataset's assets, with a check of their digests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.errors import DatasetError
from cache_schema.storage.atomic_io import sha256_bytes

if TYPE_CHECKING:
    from cache_schema.format.manifest import AssetSpec
    from cache_schema.storage.backend import StorageBackend


def read_asset(backend: StorageBackend, spec: AssetSpec) -> bytes:
    """Return the bytes of an asset.

    Raises:
        DatasetError: The file is missing or is not the one that the manifest names.
    """
    name = f"assets/{spec.name}"
    content = backend.read(name, spec.nbytes) if backend.size(name) == spec.nbytes else b""
    if sha256_bytes(content) != spec.sha256:
        raise broken_asset(backend, spec)
    return content


def broken_asset(backend: StorageBackend, spec: AssetSpec) -> DatasetError:
    """Return the error of an asset that is not the one that the manifest names."""
    return DatasetError(
        f"{backend}/assets/{spec.name} is missing, or is not the file that the manifest names",
        expected=f"safetensors of {spec.nbytes} bytes with sha256 {spec.sha256}",
        repair="fetch the asset again from where the dataset came from",
    )
