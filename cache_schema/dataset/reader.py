"""A latent dataset, opened for reading. Only committed clips are part of it."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from cache_schema.dataset.array_reader import open_array, repair_of, select
from cache_schema.dataset.assets import broken_asset, read_asset
from cache_schema.errors import DatasetError, RequestError
from cache_schema.format.clip_files import stored_length
from cache_schema.format.encodings import decode, decode_values, stored_arrays
from cache_schema.format.layout import SHARD_BYTES
from cache_schema.format.ledger import ClipInfo, Ledger, LedgerEntry
from cache_schema.format.manifest import Manifest, parse_root
from cache_schema.format.ragged import SHAPE, FrameIndex, frame_index
from cache_schema.storage.open import open_backend
from cache_schema.storage.safe_io import JSON_BYTES
from cache_schema.vocabulary.orion import implied_derivations

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import zarr
    from dask.array import Array as DaskArray

    from cache_schema.format.derivations import Derivation
    from cache_schema.format.features import FeatureSpec
    from cache_schema.storage.backend import StorageBackend

    Frames = slice | np.ndarray | None

OPEN_ENTRIES, OPEN_ARRAYS = 2048, 8192
"""Ledger entries and arrays that are remembered, some 30 kB each: more clips than one batch comes from."""


def read_manifest(where: str | Path | StorageBackend) -> Manifest:
    """Return the manifest of the dataset at a path, a URL or a storage backend.

    Raises:
        DatasetError: There is no dataset, it is of another format, or its manifest does not parse.
    """
    backend = open_backend(where)
    try:
        content = backend.read("zarr.json", JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(
            f"there is no latent dataset at {backend}",
            expected="a folder with a zarr.json, as `teachonce extract` makes it",
            repair="correct the path, or extract the dataset first",
        ) from error
    return parse_root(content, str(backend))


class LatentDataset:
    """The committed clips of one latent dataset.

    Only what is asked for is read: the manifest when the dataset is opened, the list of clips, the entry of a
    clip, the frames of an array; and never more than the ledger and the manifest together allow.

    Args:
        where: The dataset's folder, or a URL as ``open_backend`` takes it.

    Raises:
        DatasetError: There is no dataset of a known format.
        StorageError: The storage cannot be reached.
    """

    def __init__(self, where: str | Path) -> None:
        self.backend = open_backend(where)
        self.manifest = read_manifest(self.backend)
        self._where = where
        self._entry = functools.lru_cache(OPEN_ENTRIES)(lambda clip: Ledger(self.backend).read(clip))
        self._array = functools.lru_cache(OPEN_ARRAYS)(self._open_array)
        self._index = functools.lru_cache(OPEN_ENTRIES)(self._read_index)
        self._maps = functools.cache(self.derivation_maps)

    @classmethod
    def open(cls, where: str | Path) -> Self:
        """Open the dataset at a path or URL."""
        return cls(where)

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to other processes as an address."""
        return type(self), (self._where,)

    def __str__(self) -> str:
        return str(self.backend)

    @property
    def path(self) -> Path:
        """The dataset's folder.

        Raises:
            RequestError: It is not on this machine.
        """
        if self.backend.local is None:
            raise RequestError(
                f"{self.backend} is not on this machine",
                expected="a dataset in a folder",
                repair="fetch it first: `teachonce pull`",
            )
        return self.backend.local

    @property
    def datasets(self) -> tuple[LatentDataset, ...]:
        """This dataset alone; as ``JoinedDataset`` has several."""
        return (self,)

    def holder(self, feature: str) -> LatentDataset:
        """Return the dataset that holds a feature: this one.

        Raises:
            RequestError: There is no such feature.
        """
        self.feature(feature)
        return self

    @functools.cached_property
    def clips(self) -> tuple[str, ...]:
        """Names of the committed clips, sorted."""
        return Ledger(self.backend).clips()

    def clip(self, name: str) -> ClipInfo:
        """Return what is known of a clip, such as its length and split."""
        return self.entry(name).clip

    def entry(self, name: str) -> LedgerEntry:
        """Return the ledger entry of a clip.

        Raises:
            DatasetError: There is none, or it contradicts itself.
        """
        return self._entry(name)

    @property
    def fingerprint(self) -> str:
        """sha256 over the manifest's identity and the digests of all clips: equal ones, equal datasets."""
        digests = {name: self.entry(name).digest for name in self.clips}
        content = json.dumps({"manifest": self.manifest.identity(), "clips": digests}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def require(self, features: Iterable[str]) -> None:
        """Check that the dataset stores all of ``features``.

        Raises:
            RequestError: Some are missing.
        """
        missing = sorted(name for name in set(features) if self.manifest.feature(name) is None)
        if missing:
            raise RequestError(
                f"{self.backend} has no feature {', '.join(missing)}",
                expected=f"one of {', '.join(spec.name for spec in self.manifest.features)}",
                repair="choose losses that need only these, or extract a dataset that holds the others",
            )

    def feature(self, name: str) -> FeatureSpec:
        """Return the spec of one feature, stored or derived.

        Raises:
            RequestError: There is no such feature.
        """
        if name in self.derivations:
            return self.derivations[name].spec
        self.require([name])
        spec = self.manifest.feature(name)
        assert spec is not None
        return spec

    def array(self, clip: str, stored: str) -> zarr.Array:
        """Return one stored array of a clip, opened for reading; its values are encoded.

        Args:
            clip: Name of a committed clip.
            stored: Name of a feature, or that with ``.scale`` or ``.shape``.

        Raises:
            DatasetError: It is not as promised, or a file that the ledger lists is missing or has another
                size, so that reading it would yield fill values.
        """
        return self._array(clip, stored)

    def frame_index(self, clip: str, feature: str) -> FrameIndex:
        """Return the shapes of a ragged feature's frames, and where the values of each begin.

        Raises:
            DatasetError: They do not fit the number of values that the ledger has.
        """
        return self._index(clip, feature)

    def stored(self, clip: str, feature: str, frames: Frames = None) -> dict[str, np.ndarray]:
        """Read values of one clip as they are stored, for callers that decode elsewhere.

        Args:
            clip: Name of a committed clip.
            feature: Name of a stored feature.
            frames: Which frames; all of them by default.

        Returns:
            (n, *shape) for each of the feature's ``stored_arrays``, by its name; of a ragged feature the
            values of these frames, one frame after the other, in one flat array.

        Raises:
            DatasetError: The stored bytes are not those that were written.
        """
        self.require([feature])
        spec = self.feature(feature)
        selected = self._numbers(clip, frames) if isinstance(frames, np.ndarray) else frames or slice(None)
        if spec.ragged:
            return self._stored_ragged(clip, spec, selected)
        return {array.name: self._select(clip, array.name, selected) for array in stored_arrays(spec)}

    def read(self, clip: str, feature: str, frames: Frames | int = None) -> Any:
        """Read values of one clip.

        Args:
            clip: Name of a committed clip.
            feature: Name of a feature, stored or derived.
            frames: Which frames; all of them by default.

        Returns:
            An array (n, *shape), of a ragged feature a list of n arrays; where ``frames`` is one index, the
            array of that frame.

        Raises:
            DatasetError: The stored bytes are not those that were written.
            RequestError: There is no such feature or frame.
        """
        if isinstance(frames, int | np.integer):
            frame = int(self._numbers(clip, np.array([frames]))[0])
            return self.read(clip, feature, slice(frame, frame + 1))[0]
        derivation = self.derivations.get(feature)
        if derivation is None:
            return decode(self.feature(feature), self.stored(clip, feature, frames))
        inputs = {name: self.read(clip, name, frames) for name in derivation.inputs}
        return derivation.compute(inputs, self._maps(feature))

    def dask(self, feature: str, clips: Iterable[str] | None = None) -> DaskArray:
        """Return all frames of ``clips`` (all clips by default) as one lazy array (frames, *shape).

        Of a ragged feature it holds the values of all frames one after the other, in one axis; of a lower
        triangle the stored ones only.
        """
        from cache_schema.dataset.lazy import LazyArray, concatenate

        spec = self.feature(feature)
        first, shape = stored_arrays(spec)[0], () if spec.ragged else spec.fixed_shape
        arrays = []
        for clip in self.clips if clips is None else clips:
            entry = self.entry(clip)
            length = stored_length(first, entry.clip.frames, entry.values)
            read = functools.partial(self._flat_values if spec.ragged else self.read, clip, feature)
            identity = str(self.backend), entry.digest, feature
            arrays.append(LazyArray(read, (length, *shape), spec.dtype, *identity))
        nbytes = math.prod(shape) * np.dtype(spec.dtype).itemsize
        return concatenate(arrays, max(1, SHARD_BYTES // nbytes))

    def asset(self, stem: str) -> dict[str, np.ndarray]:
        """Return the tensors of ``assets/<stem>.safetensors``, after a check of the file's digest.

        Raises:
            RequestError: The dataset has no such asset.
            DatasetError: The file is missing or is not the one that the manifest names.
        """
        spec = next((asset for asset in self.manifest.assets if asset.name == f"{stem}.safetensors"), None)
        if spec is None:
            raise RequestError(
                f"{self.backend} has no asset {stem!r}",
                expected=f"one of {', '.join(asset.name for asset in self.manifest.assets) or 'none'}",
                repair="use a dataset whose teacher provides it",
            )
        try:
            return load(read_asset(self.backend, spec))
        except SafetensorError as error:
            raise broken_asset(self.backend, spec) from error

    @functools.cached_property
    def derivations(self) -> dict[str, Derivation]:
        """Features that are computed when they are read, by name: declared ones, and those of format 1."""
        stored = {spec.name for spec in self.manifest.features}
        both = (*implied_derivations(self.manifest), *self.manifest.derivations)
        return {derivation.name: derivation for derivation in both if derivation.name not in stored}

    def derivation_maps(self, name: str) -> dict[str, np.ndarray]:
        """Return the tensors of the linear maps of a derived feature, checked against its inputs."""
        derivation = self.derivations[name]
        maps = self.asset(derivation.asset)
        derivation.check_asset(maps, {spec.name: spec for spec in self.manifest.features})
        return maps

    def _open_array(self, clip: str, name: str) -> zarr.Array:
        feature = name.partition(".")[0]
        self.require([feature])
        arrays = {array.name: array for array in stored_arrays(self.feature(feature))}
        if name not in arrays:
            raise RequestError(
                f"the feature {feature!r} of {self.backend} has no array {name!r}",
                expected=f"one of {', '.join(arrays)}",
                repair="name an array that the feature's encoding has",
            )
        return open_array(self.backend, self.entry(clip), arrays[name])

    def _read_index(self, clip: str, feature: str) -> FrameIndex:
        spec, entry = self.feature(feature), self.entry(clip)
        values = stored_length(stored_arrays(spec)[0], entry.clip.frames, entry.values)
        shapes = self._select(clip, feature + SHAPE, slice(None))
        try:
            index = frame_index(spec, shapes)
            if index.offsets[-1] != values:
                raise ValueError(f"they add up to {index.offsets[-1]}")
        except ValueError as error:
            raise DatasetError(
                f"clip {clip!r}, feature {feature!r}: the shapes of its frames are not those of its values: "
                f"{error}",
                expected=f"shapes that add up to the {values} values that the ledger lists",
                repair=repair_of(clip),
            ) from error
        return index

    def _stored_ragged(
        self, clip: str, spec: FeatureSpec, frames: slice | np.ndarray
    ) -> dict[str, np.ndarray]:
        shapes, offsets = self.frame_index(clip, spec.name)
        numbers = np.arange(len(shapes))[frames]
        # Neighbours are read together.
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []
        spans = [slice(int(offsets[run[0]]), int(offsets[run[-1] + 1])) for run in runs]
        parts = [self._select(clip, spec.name, span) for span in spans if span.start < span.stop]
        empty = np.empty(0, stored_arrays(spec)[0].dtype)
        flat = parts[0] if len(parts) == 1 else np.concatenate([empty, *parts])
        return {spec.name: flat, spec.name + SHAPE: shapes[numbers].astype(np.int32)}

    def _flat_values(self, clip: str, feature: str, values: slice | int) -> np.ndarray:
        """Read values of a ragged feature wherever its frames begin."""
        spec = self.feature(feature)
        part = slice(values, values + 1) if isinstance(values, int) else values
        stored = self._select(clip, feature, part)
        if spec.encoding != "lower-triangle":
            stored = decode_values(spec, stored, stored.shape)
        return stored[0] if isinstance(values, int) else stored

    def _numbers(self, clip: str, frames: np.ndarray) -> np.ndarray:
        """Return frames as numbers from 0, whether they were counted from the end or given as a mask."""
        length = self.clip(clip).frames
        frames = np.flatnonzero(frames) if frames.dtype == bool else frames
        beyond = frames[(frames < -length) | (frames >= length)]
        if len(beyond):
            raise RequestError(
                f"clip {clip!r} has no frame {beyond[0]}",
                expected=f"a number from 0 to {length - 1}",
                repair="choose one of these",
            )
        return frames % length

    def _select(self, clip: str, name: str, elements: slice | np.ndarray) -> np.ndarray:
        return select(self.backend, clip, self.array(clip, name), name, elements)
