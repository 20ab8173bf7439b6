"""Writing one clip: its values are checked, encoded and written as they come, feature by feature."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.dataset.array_writer import ArrayWriter
from cache_schema.dataset.commit import ClipFolder, check_as_written, disk_errors
from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import FeatureError
from cache_schema.format.array_metadata import as_json, clip_group
from cache_schema.format.encodings import BFLOAT16_OVERFLOW, above_diagonal, encode, stored_arrays
from cache_schema.format.ledger import ClipInfo, FileRecord, LedgerEntry, record_files
from cache_schema.format.ragged import SHAPE, frame_index, shape_text, wrongly_shared
from cache_schema.storage.atomic_io import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.manifest import Manifest

    Values = np.ndarray | Sequence[np.ndarray]


class ClipWriter:
    """One clip on its way into a dataset.

    Values are appended feature by feature, in the order of frames, and written as they come. ``commit`` makes
    the clip part of the dataset, ``extend`` adds features to a clip that is part of it already, ``abort``
    removes every trace of what was written.

    Args:
        path: The dataset's folder.
        manifest: The dataset's manifest.
        info: The clip.
        features: What is written; by default all that the manifest promises.

    Raises:
        FeatureError: A value is not finite, overflows its type, has another shape than promised, or is not
            where the frames that share it look for it; or the clip has a tag that was not promised.
        DatasetError: The disk refuses.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        info: ClipInfo,
        features: Sequence[FeatureSpec] | None = None,
    ) -> None:
        if unknown := sorted(set(info.tags) - set(manifest.tags)):
            raise FeatureError(
                f"clip {info.name!r} has tags that were never promised: {', '.join(unknown)}",
                expected=f"some of {', '.join(manifest.tags)}",
                repair="name them in the manifest's tags",
            )
        self.info = info
        self._path = path
        with disk_errors(path):
            self._folder = ClipFolder(path, info.name, manifest)
            self._group = as_json(clip_group(info))
            (self._folder.path / "zarr.json").write_bytes(self._group)
            promised = manifest.features if features is None else features
            indices = {spec.stored_at for spec in promised}
            self._writers = {
                spec.name: _FeatureWriter(self._folder.path, spec, info, is_index=spec.name in indices)
                for spec in promised
            }

    def append(self, values: Mapping[str, Values]) -> None:
        """Add the next frames of some features.

        Once it returns, the caller may use the memory of the values again.

        Args:
            values: (n, *shape) for each feature; for a ragged feature a sequence of n arrays.
        """
        for name, frames in values.items():
            writer = self._writers.get(name)
            if writer is None:
                raise FeatureError(
                    f"clip {self.info.name!r}: feature {name!r} was never promised",
                    expected=f"one of {', '.join(self._writers)}",
                    repair="add its FeatureSpec to what the teacher promises",
                )
            with disk_errors(self._path):
                writer.append(frames)

    def append_stored(self, feature: str, stored: Mapping[str, np.ndarray]) -> None:
        """Add the next frames of a feature as another dataset of the same encoding stores them.

        Args:
            feature: Name of the feature.
            stored: What ``LatentDataset.stored`` returns; not checked any further.
        """
        with disk_errors(self._path):
            self._writers[feature].append_stored(stored)

    def commit(self, *, wall_s: float, gpu: str | None = None) -> LedgerEntry:
        """Flush the clip, move it into place and enter it in the ledger.

        Args:
            wall_s: The clip's share of the wall time that its run took so far.
            gpu: Model of the GPU that computed its values, if one did.

        Returns:
            The clip's entry: another process's, if that has committed the clip in the meantime.
        """
        with disk_errors(self._path):
            files, values = self._finish()
            writer = platform.node() if gpu is None else f"{platform.node()}, {gpu}"
            entry = LedgerEntry.of(self.info, files, values, wall_s=round(wall_s, 3), writer=writer)
            return self._folder.commit(entry)

    def extend(self, entry: LedgerEntry) -> LedgerEntry:
        """Flush the arrays, move them into the committed clip and enter them in the ledger.

        Args:
            entry: The clip's entry so far.

        Returns:
            Its new entry.
        """
        with disk_errors(self._path):
            written, values = self._finish()
            # The group's own zarr.json is in the clip already.
            added = {name: file for name, file in written.items() if "/" in name}
            files = dict(sorted({**entry.files, **added}.items()))
            extended = entry.holding(files, entry.values | values)
            self._folder.extend(extended, written)
        return extended

    def abort(self) -> None:
        """Discard the clip."""
        self._folder.discard()

    def _finish(self) -> tuple[dict[str, FileRecord], dict[str, int]]:
        """End every array; return the files that were written, and the number of values of ragged features.

        Raises:
            DatasetError: The folder holds anything else than was written.
        """
        written = {"zarr.json": FileRecord(nbytes=len(self._group), sha256=sha256_bytes(self._group))}
        for writer in self._writers.values():
            writer.finish()
            for array in writer.arrays.values():
                written |= array.files
        for writer in self._writers.values():
            self._check_shared(writer)
        found = record_files(self._folder.path)
        check_as_written(self.info.name, found, written)
        return found, {name: writer.values for name, writer in self._writers.items() if writer.spec.ragged}

    def _check_shared(self, writer: _FeatureWriter) -> None:
        """Check that values which frames share are where their index says.

        Raises:
            FeatureError: They are not.
        """
        spec = writer.spec
        if spec.stored_at is None:
            return
        index = self._writers.get(spec.stored_at)
        # A feature that is added may share values along an index that is there already.
        holders = (
            LatentDataset.open(self._path).read(self.info.name, spec.stored_at)
            if index is None
            else index.kept_values
        )
        wrong = wrongly_shared(spec, holders, writer.kept_values)
        if wrong is not None:
            raise FeatureError(
                f"clip {self.info.name!r}, feature {spec.name!r}: {wrong}, as {spec.stored_at!r} says",
                expected="a frame's value at that frame, or at an earlier one that stores its own",
                repair="let the teacher give the value with the first of the frames that share it, and empty "
                "ones with the others",
            )


class _FeatureWriter:
    """One feature of one clip: checks and encodes frames. ``is_index`` where frames share values by it."""

    def __init__(self, folder: Path, spec: FeatureSpec, info: ClipInfo, *, is_index: bool = False) -> None:
        self.spec = spec
        self._keeps = spec.name if is_index else spec.name + SHAPE if spec.stored_at is not None else None
        self._kept: list[np.ndarray] = []
        self.clip, self.frames, self.appended = info.name, info.frames, 0
        self.arrays = {
            stored.name: ArrayWriter(folder, spec, stored, info.frames if stored.leading == "frame" else None)
            for stored in stored_arrays(spec)
        }

    @property
    def values(self) -> int:
        """Stored values so far, of a ragged feature."""
        return self.arrays[self.spec.name].length

    @property
    def kept_values(self) -> np.ndarray:
        """What an index, or the shapes of values that frames share, held so far."""
        return np.concatenate(self._kept)

    def append(self, values: Values) -> None:
        if self.spec.ragged:
            for value in values:  # one by one, so that memory holds no second copy of all
                self._append(np.asarray(value)[None])
        else:
            self._append(np.asarray(values))

    def append_stored(self, stored: Mapping[str, np.ndarray]) -> None:
        for name, array in self.arrays.items():
            array.append(stored[name])
            if name == self._keeps:
                self._kept.append(stored[name].copy())
        self.appended += len(stored[self.spec.name + SHAPE if self.spec.ragged else self.spec.name])

    def finish(self) -> None:
        if self.appended != self.frames:
            raise FeatureError(
                f"{self._where(self.appended)}: the clip ends here",
                expected=f"{self.frames} frames",
                repair="append every frame of every feature before the commit",
            )
        for array in self.arrays.values():
            array.finish()

    def _append(self, values: np.ndarray) -> None:
        """Add frames (n, *shape)."""
        if not self._fits(values.shape[1:]) or self.appended + len(values) > self.frames:
            raise FeatureError(
                f"{self._where(self.appended)}: got an array of shape {values.shape}",
                expected=f"n frames of shape {shape_text(self.spec.shape)}, "
                f"with n at most {self.frames - self.appended}",
                repair="let the teacher keep what its FeatureSpec promises",
            )
        self.append_stored(encode(self.spec, self._checked(values)))

    def _fits(self, shape: tuple[int, ...]) -> bool:
        if not self.spec.ragged or len(shape) != len(self.spec.shape):
            return shape == self.spec.shape
        try:
            frame_index(self.spec, np.array([shape]))
        except ValueError:
            return False
        return True

    def _checked(self, values: np.ndarray) -> np.ndarray:
        """Return values in the feature's dtype, if that and the encoding can hold them."""
        dtype = np.dtype(self.spec.dtype)
        kind = "bfloat16" if self.spec.encoding == "bfloat16" else str(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(dtype, copy=False)
        if dtype.kind == "f":
            # An overflow becomes inf in the cast, so one look finds both faults.
            bad = ~np.isfinite(cast)
            if self.spec.encoding == "bfloat16":
                bad |= abs(cast) >= BFLOAT16_OVERFLOW
        elif values.dtype == dtype:
            bad = np.zeros(0, bool)
        else:
            bad = cast != values
        self._refuse(bad, values, f"finite values that {kind} can hold", f"do not fit {kind}")
        if self.spec.encoding == "lower-triangle":
            bad = above_diagonal(cast)
            self._refuse(bad, values, "zeros above the diagonal of the last two axes", "are no part of it")
        return cast

    def _refuse(self, bad: np.ndarray, values: np.ndarray, expected: str, fault: str) -> None:
        if not bad.any():
            return
        frame = self.appended + int(np.argwhere(bad)[0][0])
        raise FeatureError(
            f"{self._where(frame)}: {int(bad.sum())} of {bad.size} values {fault}, "
            f"the first is {values[bad].flat[0]}",
            expected=expected,
            repair="check the teacher's precision, the type that the feature is stored in, and the input of "
            "this frame; the clip was left out",
        )

    def _where(self, frame: int) -> str:
        return f"clip {self.clip!r}, feature {self.spec.name!r}, frame {frame}"
