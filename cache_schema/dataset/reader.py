"""A latent dataset, opened for reading. Only committed clips are there."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import numpy as np
import zarr
from safetensors import SafetensorError
from safetensors.numpy import load

from cache_schema.errors import DatasetError, RequestError
from cache_schema.format.array_metadata import check_document
from cache_schema.format.encodings import decode, stored_arrays
from cache_schema.format.layout import file_sizes
from cache_schema.format.ledger import ClipInfo, LedgerEntry, parse_entry
from cache_schema.format.manifest import Manifest, parse_root
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.storage.open import open_backend
from cache_schema.storage.safe_io import CLIP_NAME, JSON_BYTES
from cache_schema.vocabulary.orion_tokens import implied_derivations

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dask.array import Array as DaskArray

    from cache_schema.format.derivations import Derivation
    from cache_schema.format.encodings import StoredArray
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

    Nothing is read but what is asked for: the manifest when it is opened, the list of clips, the entry of a
    clip, the frames of an array. What is read is never more than the ledger and the manifest together allow.

    Args:
        where: The dataset's folder, or a URL as ``open_backend`` takes it.

    Raises:
        DatasetError: There is no dataset of this format.
        StorageError: The storage cannot be reached.
    """

    def __init__(self, where: str | Path) -> None:
        self.backend = open_backend(where)
        self.manifest = read_manifest(self.backend)
        self._where = where
        self._entry = functools.lru_cache(OPEN_ENTRIES)(self._read_entry)
        self._array = functools.lru_cache(OPEN_ARRAYS)(self._open_array)
        self._maps = functools.cache(self.derivation_maps)

    @classmethod
    def open(cls, where: str | Path) -> LatentDataset:
        """Open the dataset at a path or URL."""
        return cls(where)

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to other processes as an address."""
        return type(self), (self._where,)

    @property
    def path(self) -> Path:
        """The dataset's folder.

        Raises:
            RequestError: It lies elsewhere.
        """
        if self.backend.local is None:
            raise RequestError(
                f"{self.backend} is not on this machine",
                expected="a dataset in a folder",
                repair="fetch it first: `teachonce pull`",
            )
        return self.backend.local

    @functools.cached_property
    def clips(self) -> tuple[str, ...]:
        """Names of the committed clips, sorted."""
        names = self.backend.names("ledger")
        return tuple(
            sorted(name.removesuffix(".json") for name in names if name[0] != "." and name.endswith(".json"))
        )

    def clip(self, name: str) -> ClipInfo:
        """Where a clip comes from and how long it is."""
        return self.entry(name).clip

    def entry(self, name: str) -> LedgerEntry:
        """What the ledger says of a clip.

        Raises:
            DatasetError: Nothing, or nothing that can be believed.
        """
        return self._entry(name)

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
                repair="choose objectives that need only these, or extract a dataset that holds the others",
            )

    def feature(self, name: str) -> FeatureSpec:
        """Return what is promised of one feature, stored or derived."""
        if name in self.derivations:
            return self.derivations[name].spec
        self.require([name])
        spec = self.manifest.feature(name)
        assert spec is not None
        return spec

    def array(self, clip: str, stored: str) -> zarr.Array:
        """Return one clip's stored array of shape (frames, *shape), opened for reading.

        Args:
            clip: Name of a committed clip.
            stored: Name of a feature, or of its ``.scale``; values are encoded.

        Raises:
            DatasetError: It is not as promised, or a file that the ledger lists is missing or has another
                size, so that reading it would yield fill values.
        """
        return self._array(clip, stored)

    def stored(self, clip: str, feature: str, frames: Frames = None) -> dict[str, np.ndarray]:
        """Read values of one clip as they are stored, for who decodes elsewhere.

        Args:
            clip: Name of a committed clip.
            feature: Name of a stored feature.
            frames: Which frames; all of them by default.

        Returns:
            (n, *shape) for each of the feature's ``stored_arrays``, by its name.

        Raises:
            DatasetError: The stored bytes are not those that were written.
        """
        self.require([feature])
        selected = self._numbers(clip, frames) if isinstance(frames, np.ndarray) else frames or slice(None)
        return {
            array.name: self._select(clip, array.name, selected)
            for array in stored_arrays(self.feature(feature))
        }

    def read(self, clip: str, feature: str, frames: Frames | int = None) -> np.ndarray:
        """Read values of one clip.

        Args:
            clip: Name of a committed clip.
            feature: Name of a feature, stored or derived.
            frames: Which frames; all of them by default.

        Returns:
            An array of shape (n, *shape), or (*shape) where ``frames`` is one index.

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
        """All frames of ``clips`` (all clips by default) as one lazy array (frames, *shape)."""
        from cache_schema.dataset.lazy import lazy_array

        return lazy_array(self, self.feature(feature), self.clips if clips is None else tuple(clips))

    def asset(self, stem: str) -> dict[str, np.ndarray]:
        """Tensors of ``assets/<stem>.safetensors``, after a check of the file's digest.

        Raises:
            RequestError: The dataset has no such asset.
            DatasetError: The file is missing or is not the one that the manifest names.
        """
        spec = next((asset for asset in self.manifest.assets if asset.name == f"{stem}.safetensors"), None)
        if spec is None:
            raise RequestError(
                f"{self.backend} has no asset {stem!r}",
                expected=f"one of {', '.join(asset.name for asset in self.manifest.assets) or 'none'}",
                repair="use a dataset whose teacher ships it",
            )
        name = f"assets/{spec.name}"
        try:
            if self.backend.size(name) != spec.nbytes:
                raise FileNotFoundError(name)
            content = self.backend.read(name, spec.nbytes)
            if sha256_bytes(content) != spec.sha256:
                raise ValueError("other bytes")
            return load(content)
        except (FileNotFoundError, ValueError, SafetensorError) as error:
            raise DatasetError(
                f"{self.backend}/{name} is missing, or is not the file that the manifest names",
                expected=f"safetensors of {spec.nbytes} bytes with sha256 {spec.sha256}",
                repair="fetch the asset again from where the dataset came from",
            ) from error

    @functools.cached_property
    def derivations(self) -> dict[str, Derivation]:
        """Features that are computed when they are read, by name."""
        return {
            derivation.name: derivation
            for derivation in implied_derivations(self.manifest)
            if self.manifest.feature(derivation.name) is None
        }

    def derivation_maps(self, name: str) -> dict[str, np.ndarray]:
        """Tensors of the linear maps that a derived feature's rows pass through, checked."""
        derivation = self.derivations[name]
        maps = self.asset(derivation.asset)
        derivation.check_asset(maps, {spec.name: spec for spec in self.manifest.features})
        return maps

    def _read_entry(self, clip: str) -> LedgerEntry:
        try:
            if not re.fullmatch(CLIP_NAME, clip):
                raise FileNotFoundError(clip)
            content = self.backend.read(f"ledger/{clip}.json", JSON_BYTES)
        except FileNotFoundError as error:
            raise DatasetError(
                f"clip {clip!r} is not in the ledger",
                expected=f"a committed clip: there are {len(self.clips)}, listed by `teachonce inspect`",
                repair="correct the name, or extract the clip",
            ) from error
        return parse_entry(content, clip, f"{self.backend}/ledger/{clip}.json")

    def _open_array(self, clip: str, name: str) -> zarr.Array:
        feature = name.partition(".")[0]
        self.require([feature])
        stored = {array.name: array for array in stored_arrays(self.feature(feature))}.get(name)
        if stored is None:
            raise RequestError(
                f"the feature {feature!r} of {self.backend} has no array {name!r}",
                expected=f"one of {', '.join(array.name for array in stored_arrays(self.feature(feature)))}",
                repair="ask for what the feature's encoding stores",
            )
        self._check_files(clip, stored)
        folder, frames = f"clips/{clip}/{name}", self.clip(clip).frames
        try:
            # Compared before Zarr acts on it.
            document = self.backend.read(f"{folder}/zarr.json", JSON_BYTES)
            wrong = check_document(document, stored, frames)
            if wrong is not None:
                raise ValueError(wrong)
            with self.backend.errors():
                return zarr.open_array(self.backend.zarr_store(folder), mode="r", zarr_format=3)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise DatasetError(
                f"clip {clip!r} has no readable array {name!r}: {error}",
                expected=f"{stored.dtype}{(frames, *stored.shape)}, as the manifest promises",
                repair=_repair(clip),
            ) from error

    def _check_files(self, clip: str, stored: StoredArray) -> None:
        entry = self.entry(clip)
        sizes = file_sizes(stored, entry.clip.frames)
        recorded = {path: file.nbytes for path, file in entry.files.items() if _array_of(path) == stored.name}
        document = f"{stored.name}/zarr.json"
        if recorded.keys() != {document, *sizes}:
            raise DatasetError(
                f"clip {clip!r}: the ledger lists {len(recorded)} files of the array {stored.name!r}",
                expected=f"{len(sizes) + 1}: one zarr.json, and what {entry.clip.frames} frames take",
                repair=_repair(clip),
            )
        # Sizes follow from the manifest and the clip's length: a ledger that lies cannot make a reader
        # ask for more memory than the files themselves take.
        for path, nbytes in ({document: recorded[document]} | sizes).items():
            if recorded[path] != nbytes or self.backend.size(f"clips/{clip}/{path}") != nbytes:
                raise DatasetError(
                    f"clip {clip!r}, feature {stored.name!r}: {path} is missing or has another size",
                    expected=f"a file of {nbytes} bytes, as manifest and ledger say",
                    repair=_repair(clip),
                )

    def _numbers(self, clip: str, frames: np.ndarray) -> np.ndarray:
        """Frames as numbers from 0, whether they were counted from the end or marked."""
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

    def _select(self, clip: str, name: str, frames: slice | np.ndarray) -> np.ndarray:
        array = self.array(clip, name)
        try:
            with self.backend.errors():
                if isinstance(frames, np.ndarray):
                    return np.asarray(array.oindex[frames])
                return np.asarray(array[frames])
        except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
            raise DatasetError(
                f"clip {clip!r}, feature {name!r}: the stored bytes cannot be decoded: {error}",
                expected="the bytes that were committed, with the checksum of every chunk intact",
                repair=_repair(clip),
            ) from error


def _array_of(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""


def _repair(clip: str) -> str:
    return f"run `teachonce repair`, which sets clip {clip} aside, then extract or pull it again"
