"""A latent dataset, opened for reading. Only committed clips are part of it."""

from __future__ import annotations

import functools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from cache_schema.dataset.array_reader import ArrayReader
from cache_schema.errors import DatasetError, RequestError
from cache_schema.format.clip_files import feature_of, stored_length
from cache_schema.format.encodings import decode, stored_arrays
from cache_schema.format.layout import SHARD_BYTES
from cache_schema.format.ledger import ClipInfo, Ledger, LedgerEntry
from cache_schema.format.manifest import Manifest, parse_root
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.storage.open import open_backend
from cache_schema.storage.safe_io import JSON_BYTES
from cache_schema.vocabulary.orion import implied_derivations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import zarr
    from dask.array import Array as DaskArray

    from cache_schema.format.derivations import Derivation
    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.manifest import AssetSpec
    from cache_schema.format.ragged import FrameIndex
    from cache_schema.storage.backend import StorageBackend

    Frames = slice | np.ndarray | None

ENTRIES_AHEAD = 16
"""Ledger entries that are asked for at the same time, over a network."""
OPEN_ENTRIES, OPEN_CLIPS = 2048, 100_000
"""Ledger entries that are remembered, some 30 kB each: more clips than one batch comes from; and what is
known of clips, 1 kB each."""


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
        where: The dataset's folder, URL or storage backend, as ``open_backend`` takes it.

    Raises:
        DatasetError: There is no dataset of a known format.
        StorageError: The storage cannot be reached.
    """

    def __init__(self, where: str | Path | StorageBackend) -> None:
        self.backend = open_backend(where)
        self._root = self.backend.version("zarr.json")
        self.manifest = read_manifest(self.backend)
        self._where = where
        self._ledger = Ledger(self.backend)
        self._entry = functools.lru_cache(OPEN_ENTRIES)(self._read_entry)
        self._clip = functools.lru_cache(OPEN_CLIPS)(self._ledger.clip)
        self._arrays = ArrayReader(self.backend, self.entry)
        self._maps = functools.cache(self.derivation_maps)

    @classmethod
    def open(cls, where: str | Path | StorageBackend) -> Self:
        """Open the dataset at a path, URL or storage backend."""
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
        return self._ledger.clips()

    def clip(self, name: str) -> ClipInfo:
        """Return what is known of a clip, such as its length and split."""
        # Over a network, a second request would cost more than the files of an entry.
        return self.entry(name).clip if self.backend.local is None else self._clip(name)

    def entry(self, name: str) -> LedgerEntry:
        """Return the ledger entry of a clip.

        Raises:
            DatasetError: There is none, or it contradicts itself.
        """
        return self._entry(name)

    def entries(self, *, digests: bool = True) -> Iterator[LedgerEntry]:
        """Yield the ledger entries of all clips; those that come over a network are fetched side by side.

        Args:
            digests: Compute their digests again. To add entries up, they need not be.

        Raises:
            DatasetError: One contradicts itself.
        """
        # Those without their digests are not remembered: many are read once.
        read = self.entry if digests else functools.partial(self._read_entry, digest=False)
        if self.backend.local is not None:
            yield from map(read, self.clips)
            return
        with ThreadPoolExecutor(ENTRIES_AHEAD) as pool:
            yield from pool.map(read, self.clips)

    @property
    def fingerprint(self) -> str:
        """sha256 over the manifest's identity and the digests of all clips: equal ones, equal datasets."""
        digests = {entry.clip.name: entry.digest for entry in self.entries()}
        content = json.dumps({"manifest": self.manifest.identity(), "clips": digests}, sort_keys=True)
        return sha256_bytes(content.encode())

    def require(self, features: Iterable[str]) -> None:
        """Check that the dataset stores all of ``features``.

        Raises:
            RequestError: Some are missing.
        """
        missing = sorted(name for name in set(features) if self.manifest.feature(name) is None)
        if missing:
            raise self._lacking(missing)

    def feature(self, name: str) -> FeatureSpec:
        """Return the spec of one feature, stored or derived.

        Raises:
            RequestError: There is no such feature.
        """
        derivation = self.derivations.get(name)
        return self._stored_feature(name) if derivation is None else derivation.spec

    def array(self, clip: str, stored: str) -> zarr.Array:
        """Return one stored array of a clip, opened with Zarr for reading; its values are encoded.

        The dataset must be in a folder. A file that goes missing later is an error when it is read, never a
        fill value.

        Args:
            clip: Name of a committed clip.
            stored: Name of a feature, or that with ``.scale`` or ``.shape``.

        Raises:
            DatasetError: It is not as promised, or a file that the ledger lists is missing or has another
                size.
        """
        from cache_schema.dataset.zarr_array import open_array

        self.check_array(clip, stored)
        return open_array(self.path / "clips" / clip / stored)

    def check_array(self, clip: str, stored: str) -> None:
        """Check one stored array of a clip, for programs that read it with a library of their own.

        Raises:
            DatasetError: As of ``array``.
        """
        self._arrays.check(clip, self._stored_array(stored))

    def frame_index(self, clip: str, feature: str) -> FrameIndex:
        """Return the shapes of a ragged feature's frames, and where the values of each begin.

        Raises:
            DatasetError: They do not fit the number of values that the ledger has.
        """
        return self._arrays.index(clip, self.feature(feature))

    def stored_at(self, clip: str, feature: str) -> np.ndarray:
        """Return at which frame of a clip each frame's value of a feature is stored, (frames) int64.

        Raises:
            DatasetError: The dataset shares values in a way that the format does not allow.
        """
        spec = self.feature(feature)
        if spec.stored_at is None:
            return np.arange(self.clip(clip).frames)
        return self._arrays.holders(clip, spec, self._stored_feature(spec.stored_at))

    def stored(self, clip: str, feature: str, frames: Frames = None) -> dict[str, np.ndarray]:
        """Read values of one clip as they are stored, for callers that decode elsewhere.

        Args:
            clip: Name of a committed clip.
            feature: Name of a stored feature.
            frames: Which frames; all of them by default.

        Returns:
            (n, *shape) for each of the feature's ``stored_arrays``, by its name; of a ragged feature the
            values of these frames, one frame after the other, in one flat array. Of values that frames
            share, ``stored_at`` says where they are.

        Raises:
            DatasetError: The stored bytes are not those that were written.
        """
        self._check_same()
        selected = self._numbers(clip, frames) if isinstance(frames, np.ndarray) else frames or slice(None)
        return self._arrays.stored(clip, self._stored_feature(feature), selected)

    def read(self, clip: str, feature: str, frames: Frames | int = None) -> Any:
        """Read values of one clip.

        Args:
            clip: Name of a committed clip.
            feature: Name of a feature, stored or derived.
            frames: Which frames; all of them by default.

        Returns:
            An array (n, *shape), of a ragged feature a list of n arrays; where ``frames`` is one index, the
            array of that frame. Frames that share a value get the same array.

        Raises:
            DatasetError: The stored bytes are not those that were written.
            RequestError: There is no such feature or frame.
        """
        if isinstance(frames, int | np.integer):
            frame = int(self._numbers(clip, np.array([frames]))[0])
            return self.read(clip, feature, slice(frame, frame + 1))[0]
        derivation = self.derivations.get(feature)
        if derivation is None and self.feature(feature).stored_at is not None:
            holders = self.stored_at(clip, feature)
            chosen = self._numbers(clip, frames) if isinstance(frames, np.ndarray) else frames or slice(None)
            holding, places = np.unique(holders[chosen], return_inverse=True)
            values = decode(self.feature(feature), self.stored(clip, feature, holding))
            return [values[place] for place in places]
        if derivation is None:
            return decode(self.feature(feature), self.stored(clip, feature, frames))
        inputs = {name: self.read(clip, name, frames) for name in derivation.inputs}
        return derivation.compute(inputs, self._maps(feature))

    def dask(self, feature: str, clips: Iterable[str] | None = None) -> DaskArray:
        """Return all frames of ``clips`` (all clips by default) as one lazy array (frames, *shape).

        Of a ragged feature it holds the values of all frames one after the other, in one axis; of a lower
        triangle the stored ones only; values that frames share once.
        """
        from cache_schema.dataset.lazy import lazy_array

        spec = self.feature(feature)
        first, shape = stored_arrays(spec)[0], () if spec.ragged else spec.fixed_shape
        names = tuple(self.clips if clips is None else clips)
        lengths = [
            stored_length(first, 0, self.entry(clip).values) if spec.ragged else self.clip(clip).frames
            for clip in names
        ]
        nbytes = math.prod(shape) * np.dtype(spec.dtype).itemsize
        block = max(1, SHARD_BYTES // nbytes)
        return lazy_array(self._lazy_part, feature, names, lengths, block, shape, spec.dtype)

    def asset(self, stem: str) -> dict[str, np.ndarray]:
        """Return the tensors of ``assets/<stem>.safetensors``, after a check of the file's digest.

        Raises:
            RequestError: The dataset has no such asset.
            DatasetError: The file is missing or is not the one that the manifest names.
        """
        spec = self.manifest.asset(stem)
        if spec is None:
            raise RequestError(
                f"{self.backend} has no asset {stem!r}",
                expected=f"one of {', '.join(asset.name for asset in self.manifest.assets) or 'none'}",
                repair="use a dataset whose teacher provides it",
            )
        try:
            return load(self.asset_bytes(spec))
        except SafetensorError as error:
            raise self._broken(spec) from error

    def asset_bytes(self, spec: AssetSpec) -> bytes:
        """Return the content of an asset's file.

        Raises:
            DatasetError: The file is missing or is not the one that the manifest names.
        """
        name = f"assets/{spec.name}"
        content = self.backend.read(name, spec.nbytes) if self.backend.size(name) == spec.nbytes else b""
        if sha256_bytes(content) != spec.sha256:
            raise self._broken(spec)
        return content

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

    def _lazy_part(self, clip: str, feature: str, length: int, part: slice) -> np.ndarray:
        """Read part of an array that was planned with so many elements."""
        spec, entry = self.feature(feature), self.entry(clip)
        if length != stored_length(stored_arrays(spec)[0], entry.clip.frames, entry.values):
            raise DatasetError(
                f"clip {clip!r} of {self.backend} has changed since the array was made",
                expected=f"{length} elements of {feature!r}",
                repair="make the array again",
            )
        return self._arrays.flat_values(clip, spec, part) if spec.ragged else self.read(clip, feature, part)

    def _stored_feature(self, name: str) -> FeatureSpec:
        spec = self.manifest.feature(name)
        if spec is None:
            raise self._lacking([name])
        return spec

    def _lacking(self, features: Iterable[str]) -> RequestError:
        return RequestError(
            f"{self.backend} has no feature {', '.join(features)}",
            expected=f"one of {', '.join(spec.name for spec in self.manifest.features)}",
            repair="choose losses that need only these, or extract a dataset that holds the others",
        )

    def _stored_array(self, name: str) -> StoredArray:
        feature = feature_of(f"{name}/")
        arrays = {array.name: array for array in stored_arrays(self._stored_feature(feature))}
        if name not in arrays:
            raise RequestError(
                f"the feature {feature!r} of {self.backend} has no array {name!r}",
                expected=f"one of {', '.join(arrays)}",
                repair="name an array that the feature's encoding has",
            )
        return arrays[name]

    def _read_entry(self, clip: str, *, digest: bool = True) -> LedgerEntry:
        self._check_same()
        return self._ledger.read(clip, digest=digest)

    def _check_same(self) -> None:
        """Check that no other dataset was written to this place since this one was opened.

        Raises:
            DatasetError: One was, or there is none any more.
        """
        root = self.backend.version("zarr.json")
        if root == self._root:
            return
        now = read_manifest(self.backend)
        # More features may have been added to all clips.
        extended = all(spec in now.features for spec in self.manifest.features)
        mine = self.manifest.identity()
        if not extended or now.replace(features=self.manifest.features).identity() != mine:
            raise DatasetError(
                f"another dataset was written to {self.backend} since it was opened",
                expected="the manifest that was read then",
                repair="open it again, and make anew what was read before",
            )
        self._root = root

    def _broken(self, spec: AssetSpec) -> DatasetError:
        return DatasetError(
            f"{self.backend}/assets/{spec.name} is missing, or is not the file that the manifest names",
            expected=f"safetensors of {spec.nbytes} bytes with sha256 {spec.sha256}",
            repair="fetch the asset again from where the dataset came from",
        )

    def _numbers(self, clip: str, frames: np.ndarray) -> np.ndarray:
        """Return frames as numbers from 0, whether they were counted from the end or given as a mask."""
        length = self.entry(clip).clip.frames
        frames = np.flatnonzero(frames) if frames.dtype == bool else frames
        beyond = frames[(frames < -length) | (frames >= length)]
        if len(beyond):
            raise RequestError(
                f"clip {clip!r} has no frame {beyond[0]}",
                expected=f"a number from 0 to {length - 1}",
                repair="choose one of these",
            )
        return frames % length
