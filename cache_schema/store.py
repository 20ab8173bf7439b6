"""A latent dataset, opened for reading. Only committed clips are there."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr
from pydantic import ValidationError
from safetensors.numpy import load

from cache_schema.durable import sha256_of
from cache_schema.errors import DatasetError, RequestError
from cache_schema.ledger import ClipInfo, Ledger, LedgerEntry
from cache_schema.manifest import FORMAT_VERSION, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dask.array import Array as DaskArray

    from cache_schema.features import FeatureSpec


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the dataset at ``path``.

    Raises:
        DatasetError: There is no dataset, it is of another format, or its manifest does not parse.
    """
    try:
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]["teachonce"]
    except FileNotFoundError as error:
        raise DatasetError(
            f"there is no latent dataset at {path}",
            expected="a folder with a zarr.json, as `teachonce extract` makes it",
            repair="correct the path, or extract the dataset first",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path / 'zarr.json'} is not the root of a latent dataset: {error!r}",
            expected="a Zarr v3 group with an attribute 'teachonce'",
            repair="point to the folder that `teachonce extract` made",
        ) from error
    version = attributes.get("format_version") if isinstance(attributes, dict) else None
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{path} has format version {version!r}",
            expected=f"format version {FORMAT_VERSION}, the one this program reads",
            repair="install the version of teachonce that wrote it, or a newer one",
        )
    try:
        return Manifest.model_validate_json(json.dumps(attributes))
    except ValidationError as error:
        raise DatasetError(
            f"the manifest of {path} does not parse: {error}",
            expected="the manifest of FORMAT.md",
            repair="fetch the dataset's zarr.json again",
        ) from error


class LatentDataset:
    """The committed clips of one latent dataset.

    Args:
        path: The dataset's folder.

    Raises:
        DatasetError: There is no dataset of this format at ``path``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        self.ledger = Ledger(path / "ledger")
        self._entry = functools.cache(self.ledger.read)
        self._array = functools.cache(self._open_array)

    @classmethod
    def open(cls, path: str | Path) -> LatentDataset:
        """Open the dataset at ``path``."""
        return cls(Path(path))

    @functools.cached_property
    def clips(self) -> tuple[str, ...]:
        """Names of the committed clips, sorted."""
        return self.ledger.clips()

    def clip(self, name: str) -> ClipInfo:
        """Where a clip comes from and how long it is."""
        return self.entry(name).clip

    def entry(self, name: str) -> LedgerEntry:
        """What the ledger says of a clip."""
        return self._entry(name)

    def require(self, features: Iterable[str]) -> None:
        """Check that the dataset holds all of ``features``.

        Raises:
            RequestError: Some are missing.
        """
        missing = sorted(name for name in set(features) if self.manifest.feature(name) is None)
        if missing:
            raise RequestError(
                f"{self.path} has no feature {', '.join(missing)}",
                expected=f"one of {', '.join(spec.name for spec in self.manifest.features)}",
                repair="choose objectives that need only these, or extract a dataset that holds the others",
            )

    def feature(self, name: str) -> FeatureSpec:
        """Return the promise of one feature."""
        self.require([name])
        spec = self.manifest.feature(name)
        assert spec is not None
        return spec

    def array(self, clip: str, feature: str) -> zarr.Array:
        """Return one clip's array of shape (frames, *shape), opened for reading.

        Raises:
            DatasetError: A file that the ledger lists is missing or has another size, so that reading it
                would yield fill values.
        """
        return self._array(clip, feature)

    def read(self, clip: str, feature: str, frames: slice | int | np.ndarray | None = None) -> np.ndarray:
        """Read values of one clip.

        Args:
            clip: Name of a committed clip.
            feature: Name of a feature.
            frames: Which frames; all of them by default.

        Returns:
            An array of shape (frames, *shape), or (*shape) where ``frames`` is one index.

        Raises:
            DatasetError: The stored bytes are not those that were written.
        """
        array = self.array(clip, feature)
        try:
            if isinstance(frames, np.ndarray):
                return np.asarray(array.oindex[frames])
            return np.asarray(array[slice(None) if frames is None else frames])
        except (ValueError, OSError, RuntimeError) as error:
            raise DatasetError(
                f"clip {clip!r}, feature {feature!r}: the stored bytes cannot be decoded: {error}",
                expected="the bytes that were committed, with the checksum of every chunk intact",
                repair=f"run `teachonce verify`, delete ledger/{clip}.json, extract the clip again",
            ) from error

    def dask(self, feature: str, clips: Iterable[str] | None = None) -> DaskArray:
        """All frames of ``clips`` (all clips by default) as one lazy array (frames, *shape)."""
        import dask.array as da

        names = self.clips if clips is None else tuple(clips)
        arrays = [self.array(clip, feature) for clip in names]
        return da.concatenate([da.from_zarr(array, chunks=array.shards or array.chunks) for array in arrays])

    def asset(self, stem: str) -> dict[str, np.ndarray]:
        """Tensors of ``assets/<stem>.safetensors``, after a check of the file's digest.

        Raises:
            RequestError: The dataset has no such asset.
            DatasetError: The file is missing or is not the one that the manifest names.
        """
        spec = next((asset for asset in self.manifest.assets if asset.name == f"{stem}.safetensors"), None)
        if spec is None:
            raise RequestError(
                f"{self.path} has no asset {stem!r}",
                expected=f"one of {', '.join(asset.name for asset in self.manifest.assets) or 'none'}",
                repair="use a dataset whose teacher ships it",
            )
        file = self.path / "assets" / spec.name
        if not file.is_file() or file.stat().st_size != spec.nbytes or sha256_of(file) != spec.sha256:
            raise DatasetError(
                f"{file} is missing, or is not the file that the manifest names",
                expected=f"{spec.nbytes} bytes with sha256 {spec.sha256}",
                repair="fetch the asset again from where the dataset came from",
            )
        return load(file.read_bytes())

    def _open_array(self, clip: str, feature: str) -> zarr.Array:
        spec, entry = self.feature(feature), self.entry(clip)
        folder = self.path / "clips" / clip
        recorded = {path: file for path, file in entry.files.items() if path.startswith(f"{feature}/")}
        for path, file in recorded.items():
            if not (folder / path).is_file() or (folder / path).stat().st_size != file.nbytes:
                raise DatasetError(
                    f"clip {clip!r}, feature {feature!r}: {path} is missing or has another size",
                    expected=f"a file of {file.nbytes} bytes, as the ledger lists it",
                    repair=f"delete ledger/{clip}.json and extract the clip again",
                )
        try:
            array = zarr.open_array(folder / feature, mode="r")
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise DatasetError(
                f"clip {clip!r} has no readable array {feature!r}: {error}",
                expected="an array for every feature of the manifest",
                repair=f"delete ledger/{clip}.json and extract the clip again",
            ) from error
        if array.shape != (entry.clip.frames, *spec.shape) or array.dtype != np.dtype(spec.dtype):
            raise DatasetError(
                f"clip {clip!r}, feature {feature!r} is {array.dtype}{array.shape}",
                expected=f"{spec.dtype}{(entry.clip.frames, *spec.shape)}, as the manifest promises",
                repair=f"delete ledger/{clip}.json and extract the clip again",
            )
        return array
