"""Writing one clip: it is committed whole or not at all.

A clip grows in its writer's own folder under ``.partial/``, is flushed to the disk, renamed into ``clips/``,
and only then entered in the ledger. A kill at any instant leaves either a committed clip or rubbish that the
next run clears. Should two processes ever make the same clip, the first to commit wins.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from typing import TYPE_CHECKING

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from cache_schema.errors import DatasetError, FeatureError
from cache_schema.format.encodings import BFLOAT16_OVERFLOW, encode, stored_arrays
from cache_schema.format.layout import fill_value_of, layout_of
from cache_schema.format.ledger import ClipInfo, Ledger, LedgerEntry, digest_of, record_files
from cache_schema.storage.atomic_io import rename_durably, sync_tree
from cache_schema.storage.locks import committing

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.manifest import Manifest

PARTIAL = ".partial"
"""Folder of clips that are being written: ``.partial/<writer>/<clip>``."""


class ClipWriter:
    """One clip on its way into a dataset.

    Values are appended feature by feature, in the order of frames; whole files are written as soon as they
    are full. ``commit`` makes the clip part of the dataset, ``abort`` removes every trace of it.

    Args:
        path: The dataset's folder.
        manifest: The dataset's manifest: what the clip must hold.
        info: What the clip is.

    Raises:
        FeatureError: A value is not finite, overflows its type, or has another shape than promised.
        DatasetError: The disk refuses.
    """

    def __init__(self, path: Path, manifest: Manifest, info: ClipInfo) -> None:
        self.info = info
        self._path = path
        self._folder = path / PARTIAL / f"{platform.node()}-{os.getpid()}" / info.name
        with disk_errors(path):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            group = zarr.create_group(self._folder, attributes=info.model_dump(mode="json", exclude={"name"}))
            self._columns = {spec.name: _Column(group, spec, info) for spec in manifest.features}

    def append(self, values: Mapping[str, np.ndarray]) -> None:
        """Add the next frames of some features: an array (n, *shape) for each."""
        for name, array in values.items():
            column = self._columns.get(name)
            if column is None:
                raise FeatureError(
                    f"clip {self.info.name!r}: feature {name!r} was never promised",
                    expected=f"one of {', '.join(self._columns)}",
                    repair="add its FeatureSpec to what the teacher promises",
                )
            with disk_errors(self._path):
                column.append(array)

    def append_stored(self, feature: str, stored: Mapping[str, np.ndarray]) -> None:
        """Add the next frames of a feature as another dataset of the same encoding stores them.

        Args:
            feature: Name of the feature.
            stored: (n, *shape) for each of its ``stored_arrays``, by name; not looked at any further.
        """
        with disk_errors(self._path):
            self._columns[feature].append_stored(stored)

    def commit(self, *, wall_s: float) -> LedgerEntry:
        """Flush the clip, move it into place and enter it in the ledger.

        Args:
            wall_s: The clip's share of the wall time that its run took so far.

        Returns:
            The clip's entry: another process's, if that has committed the clip in the meantime.
        """
        with disk_errors(self._path):
            for column in self._columns.values():
                column.finish()
            sync_tree(self._folder)
            files = record_files(self._folder)
            entry = LedgerEntry(
                clip=self.info,
                files=files,
                digest=digest_of(self.info, files),
                wall_s=round(wall_s, 3),
                writer=platform.node(),
            )
            return commit_folder(self._path, self._folder, entry)

    def abort(self) -> None:
        """Forget the clip."""
        shutil.rmtree(self._folder, ignore_errors=True)


def commit_folder(path: Path, folder: Path, entry: LedgerEntry) -> LedgerEntry:
    """Move a clip's finished and flushed folder into the dataset at ``path``, and enter it in the ledger.

    Returns:
        The clip's entry: another process's, if that has committed the clip in the meantime.
    """
    name = entry.clip.name
    target = path / "clips" / name
    ledger = Ledger(path / "ledger")
    with committing(path):
        if name in ledger.clips():
            shutil.rmtree(folder, ignore_errors=True)
            return ledger.read(name)
        if target.exists():
            shutil.rmtree(target)  # of a process that was killed before its ledger entry
        rename_durably(folder, target)
        ledger.commit(entry)
    return entry


class _Column:
    """One feature of one clip: checks and encodes frames."""

    def __init__(self, group: zarr.Group, spec: FeatureSpec, info: ClipInfo) -> None:
        self.spec = spec
        self.clip = info.name
        self.frames = info.frames
        self.appended = 0
        self.files = {stored.name: _Files(group, spec, stored, info.frames) for stored in stored_arrays(spec)}

    def append(self, values: np.ndarray) -> None:
        values = np.asarray(values)
        if values.shape[1:] != self.spec.shape or self.appended + len(values) > self.frames:
            raise FeatureError(
                f"{self._where(self.appended)}: got an array of shape {values.shape}",
                expected=f"(n, {', '.join(map(str, self.spec.shape))}) "
                f"with n at most {self.frames - self.appended}",
                repair="let the teacher keep what its FeatureSpec promises",
            )
        for name, encoded in encode(self.spec, self._cast(values)).items():
            self.files[name].append(encoded)
        self.appended += len(values)

    def append_stored(self, stored: Mapping[str, np.ndarray]) -> None:
        for name, files in self.files.items():
            files.append(stored[name])
        self.appended += len(stored[self.spec.name])

    def finish(self) -> None:
        if self.appended != self.frames:
            raise FeatureError(
                f"{self._where(self.appended)}: the clip ends here",
                expected=f"{self.frames} frames",
                repair="append every frame of every feature before the commit",
            )
        for files in self.files.values():
            files.flush()

    def _cast(self, values: np.ndarray) -> np.ndarray:
        dtype = np.dtype(self.spec.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(dtype, copy=False)
        if dtype.kind == "f":
            # An overflow becomes inf in the cast, so one look finds both faults.
            bad = ~np.isfinite(cast)
            if self.spec.encoding == "bfloat16":
                bad |= abs(cast) >= BFLOAT16_OVERFLOW
        elif values.dtype == dtype:
            return cast
        else:
            bad = cast != values
        if bad.any():
            frame = self.appended + int(np.argwhere(bad)[0][0])
            kind = "bfloat16" if self.spec.encoding == "bfloat16" else str(dtype)
            raise FeatureError(
                f"{self._where(frame)}: {int(bad.sum())} of {bad.size} values do not fit {kind}, "
                f"the first is {values[bad].flat[0]}",
                expected=f"finite values that {kind} can hold",
                repair="look at the teacher's precision and at this frame's input; the clip was left out",
            )
        return cast

    def _where(self, frame: int) -> str:
        return f"clip {self.clip!r}, feature {self.spec.name!r}, frame {frame}"


class _Files:
    """One stored array of one clip: gathers frames until a file is full, then writes it."""

    def __init__(self, group: zarr.Group, spec: FeatureSpec, stored: StoredArray, frames: int) -> None:
        layout = layout_of(stored, frames)
        about = spec.model_dump(mode="json", include={"role", "unit", "frame", "encoding", "description"})
        if stored.name != spec.name:
            about["description"] = f"What one step of {spec.name} is worth, by frame and channel."
        self.array = group.create_array(
            stored.name,
            shape=(frames, *stored.shape),
            dtype=stored.dtype,
            chunks=layout.chunks,
            shards=layout.shards,
            filters=None,
            compressors=[Crc32cCodec()],
            fill_value=fill_value_of(stored),
            dimension_names=("frame", *stored.axes),
            # One folder an array, not one a dimension.
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=about,
            # A chunk of zeros is a value, and a file that is absent is damage.
            config={"write_empty_chunks": True},
        )
        self.buffer = np.empty((layout.frames_a_file, *stored.shape), stored.dtype)
        self.written = self.gathered = 0

    def append(self, values: np.ndarray) -> None:
        while len(values):
            count = min(len(values), len(self.buffer) - self.gathered)
            self.buffer[self.gathered : self.gathered + count] = values[:count]
            self.gathered += count
            values = values[count:]
            if self.gathered == len(self.buffer):
                self.flush()

    def flush(self) -> None:
        if self.gathered:
            self.array[self.written : self.written + self.gathered] = self.buffer[: self.gathered]
            self.written += self.gathered
            self.gathered = 0


@contextlib.contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Say what a refusing disk means for the dataset."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"the disk under {path} refuses: {error}",
            expected="room for the clips that are being written, and the right to write",
            repair="free space or mend the disk, then run the same command again; committed clips are safe",
        ) from error
